"""Store: one HDF5 file a run, written by transactions, read while it is written, and saved where it is damaged."""
