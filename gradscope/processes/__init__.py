"""Child processes: what they are told, how they are started, followed and ended."""
