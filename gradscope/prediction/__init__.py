"""The tolerance level, read from a few probes of some dozens of steps."""
