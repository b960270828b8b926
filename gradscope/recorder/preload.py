"""Import what the first recording of a process would have to load, for what that leaves in memory.

The kernels, compiled or from their cache, and the compiler of torch, which the first optimizer of a process imports.
Nothing here computes a gradient or touches a device, so a process may fork afterwards.
"""

from __future__ import annotations

import torch

from gradscope.recorder.kernels.unit_statistics import host_kernel

host_kernel("add_units")
torch.optim.SGD([torch.zeros(1, dtype=torch.float32, device="cpu")], lr=1.0)
