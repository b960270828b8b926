"""Loops as public code writes them, re-created small: numbers, weights and `capture` under a recording."""
