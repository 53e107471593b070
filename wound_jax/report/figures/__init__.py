"""One drawing a module: plain values in, SVG out."""
