"""Trials: trainings at many strengths, planned by an ask/tell object, run on an executor, kept in a journal."""
