"""The tolerance level, predicted from a few probes: how the reader is made, and how well it reads."""
