"""Hear where a backward pass ends: gradients are accumulated, and reduced over ranks, and nobody has changed them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import Variable

from gradscope.recorder.timeline import Timeline
from gradscope.torch_utils.module_hooks import EagerHook


class BackwardPasses:
    """Calls ``ended(task)`` at the end of each pass that `heard` was called in, by a sentinel's gradient.

    ``several_ranks``: once more at the very end, for DDP and FSDP finish the gradients in callbacks of their own.
    """

    def __init__(self, timeline: Timeline, several_ranks: bool, ended: Callable[[int], None]) -> None:
        self._timeline, self._ended = timeline, ended
        self._last = self._at_the_end if several_ranks else self.end
        self._task = -1  # of the pass that will call back

    def heard(self) -> None:
        """A sentinel's gradient is there: ask to be called at the end of this pass."""
        self._timeline.fresh_backward = True
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            Variable._execution_engine.queue_callback(EagerHook(self._last))

    def _at_the_end(self) -> None:
        """The callbacks that were asked for so far have been called, or are about to be."""
        Variable._execution_engine.queue_callback(EagerHook(self.end))

    def end(self) -> None:
        """The pass is over."""
        task, self._task = self._task, -1
        self._ended(task)
