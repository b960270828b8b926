"""Recorder: from a training step to a row, by hooks, kernels and a buffer on the device."""
