"""Faults that are really provoked. Quick versions run in tests/store/test_faults.py, all of it by `make torture`."""
