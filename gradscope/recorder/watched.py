"""Hearing of what a class (or module) of torch's does that has no hooks for it, or has had none for long enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Watched(Generic[W]):
    """While there are watchers, methods of a class stand in for its own: they tell, and then do as those do.

    ``kind()``: the class, or module. ``methods``: by name. ``own``: the class's own, by name. These stay known when
    nobody watches, for a loop may have taken one of the others meanwhile.
    """

    def __init__(self, kind: Callable[[], Any], **methods: Callable[..., Any]) -> None:
        self.watchers: list[W] = []
        self.own: dict[str, Any] = {}
        self._find, self._methods = kind, methods
        self._kind: Any = object

    def watch(self, watcher: W) -> None:
        """Begin to tell ``watcher``."""
        if not self.watchers:
            self._kind = self._find()
            for name, method in self._methods.items():
                self.own[name] = getattr(self._kind, name)
                setattr(self._kind, name, method)
        self.watchers.append(watcher)

    def unwatch(self, watcher: W) -> None:
        """Tell it no more; with the last one gone the methods are the class's own again."""
        if watcher not in self.watchers:
            return
        self.watchers.remove(watcher)
        if not self.watchers:
            for name, method in self.own.items():
                setattr(self._kind, name, method)
