"""Prediction of the tolerance level from a few probes of some dozens of steps."""
