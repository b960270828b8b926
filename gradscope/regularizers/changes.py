"""When strengths change, as events of a record: where a change begins, and where a gradual one ends."""

from __future__ import annotations

from collections.abc import Mapping

from gradscope.quantities import Strength

Event = tuple[int, str]


class StrengthChanges:
    """Collector of changes of strength: told every strength before each recorded step, it makes the events to write.

    A strength that changes at every step (a ramp) makes two events, not one a step.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self._events: list[Event] = []

    def see(self, step: int, strengths: Mapping[str, float]) -> None:
        """Compare the strengths that act at ``step``, by name of penalty, with those before."""
        for name, strength in strengths.items():
            before = self._last.get(name)
            if strength == before:
                if self._running.get(name, 0) > 1:
                    self._events.append((step, f"{name}: stays at {Strength(strength, name)}"))
                self._running[name] = 0
                continue
            if not self._running.get(name):
                self._events.append((step, f"{name}: {Strength(strength, name)}"))
            self._last[name] = strength
            self._running[name] = self._running.get(name, 0) + 1 if before is not None else 0

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events
