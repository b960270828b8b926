"""What a CUDA graph does, without a card: the operations of a capture are kept, and done again on the same memory.

Hooks and other Python run at the capture and at no replay, as with a real graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostGraph(TorchDispatchMode):
    """Has the methods of `torch.cuda.CUDAGraph` that recorders look at."""

    capturing = False

    def __init__(self) -> None:
        super().__init__()
        self._tape: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "nothing may be read inside a capture"
        written = [
            a for a, s in zip(args, func._schema.arguments, strict=False) if s.alias_info and s.alias_info.is_write
        ]
        self._before += [(t, t.detach().clone()) for t in tree_leaves(written)]
        out = func(*args, **(kwargs or {}))
        self._tape.append((func, args, kwargs or {}, out))
        return out

    def capture_begin(self) -> None:
        HostGraph.capturing = True
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)
        with torch.no_grad():  # a capture itself does nothing
            for tensor, value in reversed(self._before):
                tensor.copy_(value)
        HostGraph.capturing = False

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self._tape:
                for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
