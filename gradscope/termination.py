"""SIGTERM ends a training between two steps, with its record closed."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Termination:
    """Notes a SIGTERM, for the next step to act on; a second one ends the process at once.

    A handler that raised could do so in the middle of anything. Nothing is installed where the script has a
    handler of its own, or outside the main thread.
    """

    def __init__(self) -> None:
        self.asked = False
        self._installed = (
            threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._installed:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def restore(self) -> None:
        """Leave SIGTERM as it was found."""
        if self._installed and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._installed = False
