"""Calibration: what a network's cells go through before they are scored or written.

Owns the second half of a model (model = network + calibration): means blended with what training
strata teach, and expression rounded to counts (`calibration`).
"""
