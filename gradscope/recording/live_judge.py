"""Judge a run beside its loop: fed by the recorder's thread, asked by the training thread.

Rows are judged in chunks whose borders depend on nothing but the number of rows, and a decision is acted upon one
border later than its chunk. So a seeded run does the same thing every time, however fast the thread was, and the
training thread hardly ever has to wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis import measures
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.rules.checker import Checker
from gradscope.diagnosis.rules.finding import Finding
from gradscope.diagnosis.verdict import Diagnosis, Failure

Rows = dict[str, NDArray[Any]]

#: Rows in a chunk at first; later a 32nd of the rows so far.
CHUNK = 16
#: An escape: so many losses, their mean below this share of the baseline.
ESCAPE = 5, 0.7


@dataclass(frozen=True)
class Decisions:
    """Decisions of the judge at a border.

    Attributes:
        active_step: the step at which the active phase began, None before.
        settled_step: the step at which the run had shown that it holds under its penalty, None before.
        failure: that was found.
        diagnosis: of the failure.
    """

    active_step: int | None = None
    settled_step: int | None = None
    failure: Failure | None = None
    diagnosis: Diagnosis | None = None  # of the failure


def border_after(border: int) -> int:
    """Return the next border, in rows."""
    return border + max(CHUNK, border // 32)


class LiveJudge:
    """Judge and rules of a running record: a consumer of rows.

    Args:
        judge: of the run.
        settle: called with each chunk, before it is judged, to say what the baseline is.
        rules: the rules beside the judge.
        found: called with findings that are new.

    Attributes:
        judge: of the run.
        rules: the rules beside the judge.
        latest: the latest decisions.
    """

    def __init__(
        self, judge: Judge, settle: Callable[[Rows], None], rules: Checker, found: Callable[[list[Finding]], None]
    ) -> None:
        self.judge = judge
        self.rules = rules
        self._found = found
        self._settle = settle
        self._held: list[Rows] = []
        self._count = 0  # rows held
        self._border = CHUNK
        self._judged = 0
        self._decided: dict[int, Decisions] = {0: Decisions()}
        self._masks: list[tuple[int, NDArray[np.bool_]]] = []
        self._asked, self._before = CHUNK, 0  # the border that the training thread reaches next, the one before
        self._lock = threading.Lock()
        self.latest = Decisions()

    # -- the thread -------------------------------------------------------------------------------

    def append(self, block: Rows) -> None:
        """Take a block of rows, of any length; judge the chunks that are complete."""
        self._held.append(block)
        self._count += len(block["step"])
        while self._judged + self._count >= self._border:
            self._judge_rows(self._border - self._judged)
            with self._lock:
                self._decided[self._border] = self.latest
            self._border = border_after(self._border)

    def tick(self) -> None:
        """Do nothing: rows that wait for their chunk go on waiting."""

    def finish(self) -> None:
        """Judge what is left at the end of a run."""
        if self._count:
            self._judge_rows(self._count)

    def _judge_rows(self, n: int) -> None:
        rows = self._cut(n)
        with self._lock:
            self._settle(rows)
            self._judged += n
            while self._masks and self._masks[0][0] < self._judged:
                self.judge.info = replace(self.judge.info, penalised=self._masks.pop(0)[1])
            self.judge.update(rows)
        new = self.rules.update(rows)  # outside the lock: nothing that the training thread does depends on it
        with self._lock:
            judge = self.judge
            diagnosis = self._with_findings(judge.diagnosis()) if judge.failure is not None else None
            self.latest = Decisions(judge.active_step, judge.settled_step, judge.failure, diagnosis)
        if new:
            self._found(new)

    def _cut(self, n: int) -> Rows:
        """Take the first n of the rows that are held; a name that some blocks lack is NaN there."""
        names = dict.fromkeys(name for block in self._held for name in block)
        whole: Rows = {}
        for name in names:
            like = next(block[name] for block in self._held if name in block)
            parts = [b[name] if name in b else np.full((len(b["step"]), *like.shape[1:]), np.nan) for b in self._held]
            whole[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._count -= n
        self._held = [{name: values[n:] for name, values in whole.items()}] if self._count else []
        return {name: values[:n] for name, values in whole.items()}

    # -- the training thread ----------------------------------------------------------------------

    def at_border(self, rows: int) -> bool:
        """Return whether the row that is about to begin, the ``rows``-th, is one at which to ask."""
        return rows >= self._asked

    def decisions(self, fetch: Callable[[], None]) -> Decisions:
        """Return what was decided at the border before this one; call ``fetch`` if that has not been judged yet."""
        with self._lock:
            judged = self._before in self._decided
        if not judged:
            fetch()
        with self._lock:
            found = self._decided.pop(self._before, self.latest)
        self._before, self._asked = self._asked, border_after(self._asked)
        return found

    @property
    def escaped(self) -> bool:
        """Whether the latest losses that were judged lie clearly below the baseline."""
        with self._lock:
            judge = self.judge
            level = measures.loss_level(judge.series, len(judge.series) - ESCAPE[0], len(judge.series))
            return bool(level < ESCAPE[1] * judge.baseline)

    def penalised(self, row: int, mask: NDArray[np.bool_]) -> None:
        """Note that other parameters are penalised from this row on."""
        self._masks.append((row, mask))

    def diagnosis(self, finished: bool = False) -> Diagnosis:
        """Return the verdict so far, with what the rules have found."""
        with self._lock:
            return self._with_findings(self.judge.diagnosis(finished=finished))

    def _with_findings(self, diagnosis: Diagnosis) -> Diagnosis:
        return replace(diagnosis, findings=tuple(self.rules.findings))
