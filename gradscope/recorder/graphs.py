"""Seeing what CUDA graphs do: when one is being captured, and when a captured one is replayed.

Hooks run while a graph is captured and at no replay, so while anything is recorded on a device, the methods of
`torch.cuda.CUDAGraph` tell the recorders what they are about to do, and then do it. What a capture does to a
fixed row of the ring is repeated by every replay; the host's part of a row is told once and kept as `Captured`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from gradscope.recorder.meter import Meter
from gradscope.recorder.rows import HostRow
from gradscope.recorder.watched import Watched


@dataclass(eq=False)
class Captured:
    """What one graph does at each replay, as far as the recorder is concerned.

    ``holds``: whose memory it writes, for as long as it lives. ``usable``: whether its replays can be recorded.
    ``sampling``: whether activations were to be sampled when the capture began. ``passes``: meters, by number, whose
    gradients a captured backward pass leaves. ``optimizers``: by identity, those that step. ``row``: the host's
    part of the rows, with strengths and rates as they were at the capture. ``begins``: whether this replay has
    begun a row.
    """

    holds: tuple[Any, ...]
    usable: bool
    sampling: bool
    passes: dict[int, Meter] = field(default_factory=dict)
    optimizers: dict[int, Optimizer] = field(default_factory=dict)
    row: HostRow = field(default_factory=lambda: HostRow(0, 0, 0.0, (), []))
    begins: bool = False


class Watcher(Protocol):
    """Who wants to know. Captures do not nest, and no replay happens inside one."""

    def capture_begins(self) -> None:
        """The next operations on this thread's stream are captured."""

    def capture_ends(self, graph: Any) -> None:
        """They have been, into this graph; None: the capture could not begin."""

    def before_replay(self, graph: Any) -> None:
        """A graph is about to be launched on the current stream."""

    def after_replay(self, graph: Any) -> None:
        """It has been launched."""


def hold(graph: Any, watcher: Watcher, captured: Captured) -> None:
    """Keep the memory that a graph writes while there is the graph, which outlives the recordings it writes for.

    The graph itself keeps it, so that graphs which are part of a model can be collected with it.
    """
    graph.__dict__.setdefault("_gradscope", {})[id(watcher)] = captured


def _begin(self: Any, *args: Any, **kwargs: Any) -> None:
    try:
        for watcher in _GRAPHS.watchers:
            watcher.capture_begins()
        _GRAPHS.own["capture_begin"](self, *args, **kwargs)
    except BaseException:
        for watcher in _GRAPHS.watchers:
            watcher.capture_ends(None)
        raise


def _end(self: Any) -> None:
    try:
        _GRAPHS.own["capture_end"](self)
    finally:
        for watcher in _GRAPHS.watchers:
            watcher.capture_ends(self)


def _replay(self: Any) -> None:
    for watcher in tuple(_GRAPHS.watchers):  # one may be closed by what a row tells it
        watcher.before_replay(self)
    _GRAPHS.own["replay"](self)
    for watcher in tuple(_GRAPHS.watchers):
        watcher.after_replay(self)


_GRAPHS: Watched[Watcher] = Watched(
    lambda: torch.cuda.CUDAGraph, capture_begin=_begin, capture_end=_end, replay=_replay
)
watch, unwatch = _GRAPHS.watch, _GRAPHS.unwatch
