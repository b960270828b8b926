"""Shared by the studies: models, loops, and running many trainings at once."""
