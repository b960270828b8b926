"""Child processes: their instructions, how they are started, followed and ended."""
