"""Calibration: what the means and zeros of predicted cells go through after the network."""
