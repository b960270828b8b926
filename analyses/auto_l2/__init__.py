"""Improving L2 Regularization based on Auto L2 (Fang and Lin): strengths that follow the training."""
