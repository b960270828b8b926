"""Seeing what CUDA graphs do: when one is being captured, and when a captured one is replayed.

Hooks run while a graph is captured and at no replay, so while anything is recorded on a device, the methods of
`torch.cuda.CUDAGraph` tell the recorders what they are about to do, and then do it. What a capture does to a
fixed row of the ring is repeated by every replay; the host's part of a row is told once and kept as `Captured`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer

from gradscope.recorder.meter import Meter
from gradscope.recorder.rows import HostRow


@dataclass
class Captured:
    """What one graph does at each replay, as far as the recorder is concerned.

    ``holds``: whose memory it writes, for as long as it lives. ``passes``: meters, by number, whose gradients a
    captured backward pass leaves. ``optimizers``: by identity, those that step. ``row``: the host's part of the
    rows, with strengths and rates as they were at the capture. ``begins``: whether this replay has begun a row.
    """

    holds: tuple[Any, ...]
    passes: dict[int, Meter] = field(default_factory=dict)
    optimizers: dict[int, Optimizer] = field(default_factory=dict)
    row: HostRow = field(default_factory=lambda: HostRow(0, 0, 0.0, (), []))
    begins: bool = False


class Watcher(Protocol):
    """Who wants to know. Captures do not nest, and no replay happens inside one."""

    def capture_begins(self) -> None:
        """The next operations on this thread's stream are captured."""

    def capture_ends(self, graph: Any) -> None:
        """They have been, into this graph."""

    def before_replay(self, graph: Any) -> None:
        """A graph is about to be launched on the current stream."""

    def after_replay(self, graph: Any) -> None:
        """It has been launched."""


_WATCHERS: list[Watcher] = []
_OWN: dict[str, Any] = {}
#: A graph outlives the recordings that it writes for.
_HELD: WeakKeyDictionary[Any, list[Captured]] = WeakKeyDictionary()


def hold(graph: Any, captured: Captured) -> None:
    """Keep the memory that a graph writes while there is the graph."""
    _HELD.setdefault(graph, []).append(captured)


def watch(watcher: Watcher) -> None:
    """Begin to tell ``watcher``."""
    _WATCHERS.append(watcher)
    if not _OWN:
        graph = torch.cuda.CUDAGraph
        _OWN.update(kind=graph, begin=graph.capture_begin, end=graph.capture_end, replay=graph.replay)
        graph.capture_begin, graph.capture_end, graph.replay = _begin, _end, _replay  # type: ignore[method-assign]


def unwatch(watcher: Watcher) -> None:
    """Tell it no more; with the last one gone the methods are torch's own again."""
    if watcher in _WATCHERS:
        _WATCHERS.remove(watcher)
    if not _WATCHERS and _OWN:
        graph = _OWN["kind"]
        graph.capture_begin, graph.capture_end, graph.replay = _OWN["begin"], _OWN["end"], _OWN["replay"]
        _OWN.clear()


def _begin(self: Any, *args: Any, **kwargs: Any) -> None:
    for watcher in _WATCHERS:
        watcher.capture_begins()
    _OWN["begin"](self, *args, **kwargs)


def _end(self: Any) -> None:
    try:
        _OWN["end"](self)
    finally:
        for watcher in _WATCHERS:
            watcher.capture_ends(self)


def _replay(self: Any) -> None:
    watchers = list(_WATCHERS)
    for watcher in watchers:
        watcher.before_replay(self)
    _OWN["replay"](self)
    for watcher in watchers:
        watcher.after_replay(self)
