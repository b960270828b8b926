"""Restarts of a training that does not learn: a policy decides, a supervisor or a loop in one process acts."""
