"""Which parameters train, and how."""
