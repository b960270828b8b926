"""Patch methods of a torch class (or module) to notify observers, where torch has no hooks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Observer = TypeVar("Observer")


class MethodPatch(Generic[Observer]):
    """Replacement of methods of a class while there are observers; it notifies these and calls the originals.

    Args:
        kind: returns the class, or module, looked up when the first observer comes.
        methods: the replacements, by name.

    Attributes:
        observers: in the order in which they came.
        originals: by name; kept when nobody observes any more, for a loop may hold a replacement still.
    """

    def __init__(self, kind: Callable[[], Any], **methods: Callable[..., Any]) -> None:
        self.observers: list[Observer] = []
        self.originals: dict[str, Any] = {}
        self._find, self._methods = kind, methods
        self._kind: Any = object

    def add(self, observer: Observer) -> None:
        """Add an observer; the first one puts the replacements in."""
        if not self.observers:
            self._kind = self._find()
            for name, method in self._methods.items():
                self.originals[name] = getattr(self._kind, name)
                setattr(self._kind, name, method)
        self.observers.append(observer)

    def remove(self, observer: Observer) -> None:
        """Remove an observer; the last one puts the originals back."""
        if observer not in self.observers:
            return
        self.observers.remove(observer)
        if not self.observers:
            for name, method in self.originals.items():
                setattr(self._kind, name, method)
