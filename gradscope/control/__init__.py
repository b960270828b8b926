"""Restart: policies decide, the supervisor acts."""
