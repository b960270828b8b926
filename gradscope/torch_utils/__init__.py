"""Facts about torch that more than one room needs, each once."""
