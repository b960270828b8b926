"""Arrays in, findings out. No torch, no files."""
