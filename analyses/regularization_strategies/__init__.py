"""The tables of "Regularization Strategies in Deep Learning" (Srivastava)."""
