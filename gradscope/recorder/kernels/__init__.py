"""Kernels from tensors to numbers on their device: numba on the host, Triton on CUDA, else torch's operations."""
