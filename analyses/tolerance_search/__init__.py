"""How good is the tolerance search: simulated, on real training, and beside other ways."""
