"""Faults that are really provoked. Quick versions run in tests/test_store_faults.py, all of it by `make torture`."""
