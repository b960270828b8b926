"""A small third edition: what people train, failures with the right cause as label, and the remedy carried out."""
