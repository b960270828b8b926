"""Tensors to numbers on their device: numba on the host, Triton on CUDA, torch's operations for the rest."""
