"""Hands a record to other tools: one file a format, each written by that format's own library."""
