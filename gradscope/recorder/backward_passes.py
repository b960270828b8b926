"""Detect the end of a backward pass: gradients are accumulated, and reduced over ranks, and nobody has changed them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import Variable

from gradscope.recorder.timeline import Timeline
from gradscope.torch_utils.module_hooks import EagerHook


class BackwardPasses:
    """Detector that calls ``ended(task)`` at the end of each pass in which a sentinel's gradient called `heard`.

    Args:
        timeline: told of fresh gradients.
        several_ranks: call at the very end, for DDP and FSDP finish the gradients in callbacks of their own.
        ended: called with the number of the pass.
    """

    def __init__(self, timeline: Timeline, several_ranks: bool, ended: Callable[[int], None]) -> None:
        self._timeline, self._ended = timeline, ended
        self._last = self._at_the_end if several_ranks else self.end
        self._task = -1  # of the pass that will call back

    def heard(self) -> None:
        """Ask to be called at the end of this pass: a sentinel's gradient is there."""
        self._timeline.fresh_backward = True
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            Variable._execution_engine.queue_callback(EagerHook(self._last))

    def _at_the_end(self) -> None:
        """Ask once more, behind the callbacks that were asked for so far."""
        Variable._execution_engine.queue_callback(EagerHook(self.end))

    def end(self) -> None:
        """Report that the pass is over."""
        task, self._task = self._task, -1
        self._ended(task)
