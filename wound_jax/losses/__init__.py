"""Losses: distances between sets of cells, and the velocity term."""
