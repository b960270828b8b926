"""Handle SIGTERM between two steps, so that the record is closed; and hold signals back while it is being closed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Seconds within which a second SIGTERM counts as the first: launchers pass on what their group was sent, too.
ECHO = 1.0

_NOTED: list[Termination] = []


class Termination:
    """Note of a SIGTERM, for the next step to act on; a second one, after `ECHO`, ends the process at once.

    A handler that raised could do so in the middle of anything. Nothing is installed where the script has a handler of
    its own, or outside the main thread; one that it sets later stays.

    Attributes:
        asked: whether a SIGTERM has come.
    """

    def __init__(self) -> None:
        self.asked = False
        here = threading.current_thread() is threading.main_thread()
        self._installed = here and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, _note)
        if self._installed:
            _NOTED.append(self)
            signal.signal(signal.SIGTERM, _note)

    def restore(self) -> None:
        """Stop noting; the last one leaves SIGTERM as it was found, if nobody has changed it since."""
        if not self._installed:
            return
        self._installed = False
        _NOTED.remove(self)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _note:
            signal.signal(signal.SIGTERM, _ours())


_first = 0.0
_process = os.getpid()


def _ours() -> Any:
    """Return the handler that stands in the place of the default."""
    return _note if _NOTED else signal.SIG_DFL


def _note(number: int, frame: FrameType | None) -> None:
    global _first
    if os.getpid() != _process:
        _leave_to_the_parent()
    waiting = [termination for termination in _NOTED if not termination.asked]
    if waiting:
        _first = time.monotonic()
        for termination in waiting:
            termination.asked = True
    elif not _NOTED or time.monotonic() - _first > ECHO:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM at the end of the block: closing a record takes a moment. A second one acts at once.

    Python runs handlers in the main thread alone.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if handler is not None}  # None: set outside Python
    arrived: list[int] = []

    def put_back() -> None:
        for number, handler in ours.items():
            signal.signal(number, _ours() if handler is _note else handler)

    def note(number: int, frame: FrameType | None) -> None:
        if number in arrived:
            put_back()
            signal.raise_signal(number)
        arrived.append(number)

    for number in ours:
        signal.signal(number, note)
    try:
        yield
    finally:
        put_back()
        for late in dict.fromkeys(arrived):
            signal.raise_signal(late)


def _leave_to_the_parent() -> None:
    """Restore the default in a forked child (a DataLoader's worker), which ends at its SIGTERM."""
    global _process
    _process = os.getpid()
    _NOTED.clear()
    if signal.getsignal(signal.SIGTERM) is _note:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_leave_to_the_parent)
