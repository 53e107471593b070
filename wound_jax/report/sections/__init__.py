"""The parts of the page: each module turns what was read into one section."""
