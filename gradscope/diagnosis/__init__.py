"""Diagnosis of a run, from arrays to findings. No torch, no files."""
