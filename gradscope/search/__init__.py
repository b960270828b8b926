"""Tolerance search: ask/tell decides, trials and executors run."""
