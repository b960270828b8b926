"""Tuning: the strength with the best metric, from a search."""
