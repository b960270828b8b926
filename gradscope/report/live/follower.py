"""Follow a record in a thread of its own and summarise, at any time, what has been seen."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from gradscope import checks
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.post_hoc import validation_losses
from gradscope.report.live.frame import Frame, frame
from gradscope.report.page.fold import NAMES, Fold
from gradscope.report.page.page_values import RunPage
from gradscope.report.page.run_page import VALUES, read, run_page
from gradscope.store.follow import follow
from gradscope.store.record import Record
from gradscope.store.writer_lock import writer_of
from gradscope.types import InputError

#: Rows read at a time, one chunk of the file.
BLOCK_ROWS = 1024
#: How often a record that was just readable is tried again.
TRIES = 20


class _Stopped(Exception):
    """Signal that nobody wants to follow any more."""


class Follower:
    """Reader of rows as they are published, in bounded memory; the file is only read.

    A context manager: its thread has to end before the interpreter does, because HDF5 hangs if it is left in the middle
    of a call.

    Attributes:
        path: the file.
        over: no more rows will come.
        error: why the file is no record.
    """

    def __init__(self, path: Path) -> None:
        checks.on_this_machine(path, "a record is followed as it grows")
        self.path = path
        self.over = False
        self.error: InputError | None = None
        self._fold: Fold | None = None
        self._rules: Checker | None = None
        self._seen: tuple[int, bool] | None = None
        self._latest: tuple[RunPage, float | None] | None = None
        self._lock = threading.Lock()
        self._stop, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def run(self) -> tuple[RunPage, float | None] | None:
        """Return the summary so far and the steps a second.

        Returns:
            None before the first row, or while the file cannot be read.
        """
        with self._lock:
            if self._fold is None or self._rules is None or not self._fold.windows.rows:
                return None
            key = self._fold.windows.rows, self.over
            if key != self._seen:
                try:
                    with Record(self.path) as record:
                        self._rules.of_epochs.update(validation_losses(record.metrics))
                        run = run_page(self.path.name, record, self._fold, self._rules, whole=self.over)
                except (InputError, OSError):  # between two commits on a slow network; the next look will do
                    return self._latest
                self._seen, self._latest = key, (run, self._fold.steps_per_second)
            return self._latest

    def wait(self, seconds: float) -> None:
        """Wait until the run is over, but no longer than this."""
        # Not `join`: up to Python 3.12 a Ctrl-C in it makes the thread count as ended while it goes on.
        self._ended.wait(seconds)

    def _work(self) -> None:
        try:
            while not self._read():
                pass
        except InputError as error:
            self.error = error
        except _Stopped:
            return
        self.over = True
        self._ended.set()

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _read(self) -> bool:
        """Read to the end of the run; False where the run went back to an earlier step, and all is read anew."""
        with self._lock:
            self._fold = self._rules = self._seen = None
        last = -np.inf
        for block in follow(
            self.path, tuple(dict.fromkeys((*NAMES, *NEEDED))), block_rows=BLOCK_ROWS, pause=self._pause
        ):
            self._pause(0)
            if block["step"][0] <= last:
                return False
            last = float(block["step"][-1])
            if self._fold is None or self._rules is None:
                fold, rules = self._empty()
                with self._lock:
                    self._fold, self._rules = fold, rules
            with self._lock:
                self._fold.update(block)
                self._rules.update({name: block[name] for name in NEEDED if name in block})
        return True

    def _empty(self) -> tuple[Fold, Checker]:
        """Create what takes the rows of this record, trying again while the file is between two commits."""
        for attempt in range(TRIES + 1):
            try:
                with Record(self.path) as record:
                    return Fold(record.info, VALUES), Checker(record.info)
            except InputError:
                if attempt == TRIES:
                    raise
                self._pause(0.25)
        raise AssertionError("the last try returns or raises")


def run_now(path: Path) -> Frame:
    """Summarise what is in the file now; raise `InputError` for what is no record, or holds no row yet."""
    with Record(path) as record:
        if not record.rows:
            raise InputError(f"{path} holds no row yet; without --once, gradscope watch waits for the first")
        fold, rules = read(record, VALUES)
        run = run_page(path.name, record, fold, rules)
    return frame(run, fold.steps_per_second, over=run.status != "running" or writer_of(path) is None)
