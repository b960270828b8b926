"""Background thread that carries finished rows from the ring to their consumers."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Rows wait at most this long, in seconds, before the thread fetches them by itself.
PERIOD = 0.25


class Flusher:
    """Thread that calls ``work()``: when kicked, and every `PERIOD` seconds.

    What ``work`` raises ends the thread, is kept, and is raised again by the next `check`.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._state = threading.Condition()
        self._asked = 0  # how often the thread was asked, and the ask that it has answered
        self._answered = 0
        self._stopping = False
        #: After an error, or the end that `stop` asks for.
        self.ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gradscope-flusher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs: False after an error, after `stop`, and in a forked child."""
        return self._thread.is_alive() and not self._stopping

    def kick(self) -> None:
        """Ask for a flush, soon."""
        with self._state:
            self._asked += 1
            self._state.notify_all()

    def wait(self) -> None:
        """Wait until everything that was finished at the time of this call has been taken."""
        with self._state:
            self._asked += 1
            mine = self._asked
            self._state.notify_all()
            # The time limit is for a forked child, in which there is no such thread.
            while self._answered < mine and self.alive:
                self._state.wait(timeout=1.0)
        self.check()

    def check(self) -> None:
        """Raise, once, what the thread has raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Take the rest and end the thread."""
        with self._state:
            self._stopping = True
            self._state.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._state:
                if self._answered == self._asked and not self._stopping:
                    self._state.wait(timeout=PERIOD)
                mine, last = self._asked, self._stopping
            try:
                self._work()
            except BaseException as error:
                self._error, last = error, True
            with self._state:
                self._answered = mine
                self._stopping = self._stopping or last
                self._state.notify_all()
            if last:
                self.ended = True
                return
