"""Prediction: trained networks on control cells, in memory or from file to file."""
