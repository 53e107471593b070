"""Cells: reading, splitting, preprocessing, grouping into sets."""
