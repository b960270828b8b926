"""Export of records to other tools: one module a format, each written by that format's own library."""
