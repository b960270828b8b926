"""From a record to a typed summary, from there to a figure."""
