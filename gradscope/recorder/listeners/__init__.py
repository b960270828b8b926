"""Listeners of a training: one file a kind of quantity, with its state, its fields in a row, and its variables."""
