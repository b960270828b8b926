"""Read a record once, block by block, into what a page shows of it: thinned series and the judge's answer.

The same fold serves a finished record and one that is being written; memory does not grow with the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.series import layer_push, network_series
from gradscope.quantities import BALANCE, BY_LAYER, BY_MODULE, JUDGED, OF_NETWORK, PENALTY, PROPORTION
from gradscope.report.page.windows import PageWindows
from gradscope.run_info import RunInfo

Rows = Mapping[str, NDArray[Any]]

#: The variables a page is made of.
NAMES = (*JUDGED, PROPORTION.name, "time", "epoch")
#: Layers that are in a page; one of more would not be small.
MOST_LAYERS = 2000
#: Windows of a page: at least for a short budget, at most where there are few layers.
FEWEST, MOST = 32, 512
#: Quantities of penalised layers alone, and into how many stretches a run is smoothed whose epochs are unknown.
OF_PENALTY = {PENALTY.word, PROPORTION.word, BALANCE.word}
GUESSED_PASSES = 50

#: The step rate is that of so many seconds and rows.
PACE_SECONDS, PACE_ROWS = 15.0, 4096


class Fold:
    """Summary of the rows seen of one run.

    Args:
        info: of the run, as the judge takes it.
        values: numbers that the thinned layers may take together; decides the number of windows.
        rows: rows to come, where that is known: windows then fit exactly.
    """

    def __init__(self, info: RunInfo, values: int, rows: int | None = None) -> None:
        self.info = info
        self.judge = Judge(info)
        self.parameters = _evenly(len(info.parameters), info.watched)
        self.modules = _evenly(len(info.modules), np.zeros(len(info.modules), dtype=bool))
        self.module_names = tuple(info.modules[i] for i in self.modules)
        self.penalised = self.parameters[info.penalised[self.parameters]]
        columns = 2 * len(self.parameters) + 3 * len(self.penalised) + len(self.modules) * len(BY_MODULE)
        least = int(np.clip(values // (6 * max(columns, 1)), FEWEST // 2, MOST // 2))
        size = 1 if rows is None else max(1, -(-rows // (2 * least)))
        self.windows = PageWindows(least, size)
        self._pace = np.empty((2, 0))  # steps and seconds of the latest rows
        self._epochs: set[int] = set()
        self._in_epochs = 0  # rows that know theirs

    def update(self, rows: Rows) -> None:
        """Take a block of rows, in order."""
        self.judge.update(rows)
        network = network_series(rows, self.info)
        envelopes = {f"network {word}": getattr(network, word)[:, None] for word in OF_NETWORK}
        envelopes["step"] = network.step[:, None]
        for word, q in (*BY_LAYER.items(), *BY_MODULE.items()):
            if q.name in rows:
                envelopes[word] = np.asarray(rows[q.name], dtype=np.float32)[:, self.columns(word)]
        self.windows.add(envelopes, self._sums(rows))
        if "epoch" in rows:
            known = rows["epoch"][rows["epoch"] >= 0]
            self._epochs.update(np.unique(known).tolist())
            self._in_epochs += len(known)
        if "time" in rows:
            times = np.stack((network.step, np.asarray(rows["time"], dtype=np.float64)))
            pace = np.concatenate((self._pace, times), axis=1)[:, -PACE_ROWS:]
            self._pace = pace[:, pace[1] >= pace[1, -1] - PACE_SECONDS]

    def columns(self, word: str) -> NDArray[np.int64]:
        """Return which columns of the record are kept of this quantity."""
        return self.modules if word in BY_MODULE else self.penalised if word in OF_PENALTY else self.parameters

    @property
    def windows_per_pass(self) -> int:
        """How many windows a pass over the data takes, for lines that are smoothed; a guess where none is known."""
        most = max(1, self.windows.count // 8)
        rows = self._in_epochs / len(self._epochs) if self._epochs else self.windows.rows / GUESSED_PASSES
        return int(np.clip(round(rows / self.windows.size), 1, most))

    @property
    def steps_per_second(self) -> float | None:
        """Step rate over the latest rows; None where their times do not tell."""
        steps, seconds = self._pace
        if len(steps) < 2 or not seconds[-1] > seconds[0]:
            return None
        return float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))

    def _sums(self, rows: Rows) -> dict[str, NDArray[np.floating]]:
        """Compute Σ⟨w, −∂L/∂w⟩ and Σ⟨w, λ∂Ω/∂w⟩ by layer, whose ratio is the radial balance."""
        push = layer_push(rows, self.info)
        if push is None or "weight_gradient_dot" not in rows:
            return {}
        pull = -np.asarray(rows["weight_gradient_dot"], dtype=np.float64)
        return {"pull": pull[:, self.penalised], "push": push[:, self.penalised]}


def _evenly(count: int, first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose layers to draw: all, or `MOST_LAYERS` evenly spaced, those in ``first`` before others."""
    if count <= MOST_LAYERS:
        return np.arange(count)
    wanted, others = np.flatnonzero(first), np.flatnonzero(~first)
    taken = wanted[np.unique(np.linspace(0, len(wanted) - 1, min(len(wanted), MOST_LAYERS)).astype(int))]
    room = MOST_LAYERS - len(taken)
    if room:
        taken = np.append(taken, others[np.unique(np.linspace(0, len(others) - 1, room).astype(int))])
    return np.sort(taken)
