"""Tolerance level: the strength at which half of the runs fail to learn, from records or from a search."""
