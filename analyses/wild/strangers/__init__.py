"""Small training scripts of common kinds, as people write them, each healthy and with faults: `run` diagnoses them."""
