"""Patch methods of a torch class (or module) to notify observers, where torch has no hooks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class Watched(Generic[W]):
    """Replaces methods of a class while there are watchers; the replacements notify these and call the originals.

    ``kind()``: the class, or module, looked up when the first watcher comes. ``methods``: the replacements, by name.
    ``own``: the originals, by name; kept when nobody watches any more, for a loop may hold a replacement still.
    """

    def __init__(self, kind: Callable[[], Any], **methods: Callable[..., Any]) -> None:
        self.watchers: list[W] = []
        self.own: dict[str, Any] = {}
        self._find, self._methods = kind, methods
        self._kind: Any = object

    def watch(self, watcher: W) -> None:
        """Add an observer; the first one puts the replacements in."""
        if not self.watchers:
            self._kind = self._find()
            for name, method in self._methods.items():
                self.own[name] = getattr(self._kind, name)
                setattr(self._kind, name, method)
        self.watchers.append(watcher)

    def unwatch(self, watcher: W) -> None:
        """Remove an observer; the last one puts the originals back."""
        if watcher not in self.watchers:
            return
        self.watchers.remove(watcher)
        if not self.watchers:
            for name, method in self.own.items():
                setattr(self._kind, name, method)
