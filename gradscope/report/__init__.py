"""Figures and pages: from a record to a typed summary, from there to a drawing."""
