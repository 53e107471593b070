"""Figures: plain values in, panels out, for the page as SVG and for a folder as PNG."""
