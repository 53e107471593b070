"""The training store: cells on disk, for what does not fit in memory."""
