"""Show a recording elsewhere while it runs: sinks, and the numbers that they are given."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope import checks, quantities
from gradscope.diagnosis.series import network_series
from gradscope.plugins import plugged
from gradscope.run_info import RunInfo
from gradscope.types import InputError

EXPECTED = "a gradscope.Sink, such as gradscope.integrations.sinks.TensorBoardSink('logs')"
#: What is shown of every layer and of the whole network, and of the parameter groups; and what is not, of a row.
LAYERS = (quantities.GRADIENT, quantities.PENALTY, quantities.WEIGHT, quantities.PROPORTION)
HISTOGRAMS = tuple(q.name for q in quantities.QUANTITIES if q.name.endswith("_histogram"))
#: Seconds between two rows whose histograms are shown, and tensors that have some there: tools keep each forever.
APART, MOST = 10.0, 100
_GROUPS = tuple(q.name for q in quantities.QUANTITIES if q.dims == (quantities.STEP, quantities.GROUP))
_NOT_SHOWN = tuple(q.name for q in quantities.QUANTITIES if not q.mirrored)


class Sink(ABC):
    """Place that shows the main quantities and the verdict of a running recording; see `gradscope.integrations.sinks`.

    All methods are called from one thread, which is not that of the training. What they raise ends the showing.

    Args:
        every: show the rows of every n-th optimizer step.
        layers: show the four sizes of every layer beside those of the network.

    Attributes:
        every: show the rows of every n-th optimizer step.
        layers: show the four sizes of every layer, too.

    Raises:
        InputError: ``every`` is no positive whole number.
    """

    def __init__(self, *, every: int = 10, layers: bool = False) -> None:
        self.every = checks.positive_int(every, "every")
        self.layers = layers

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of one step.

        Args:
            step: the optimizer step.
            values: by names such as ``gradscope/proportion``.
        """

    def histograms(  # noqa: B027 (many tools have none)
        self, step: int, counts: Mapping[str, NDArray[np.float32]], edges: NDArray[np.float64]
    ) -> None:
        """Show how the sizes of entries are spread, where the recording counts them (preset ``full``).

        Args:
            step: the optimizer step.
            counts: entries in each bin, [B], by names such as ``gradscope/weight_histogram/0.weight``.
            edges: of the bins, [B + 1], in log₂ of the size; the first bin holds exact zeros.
        """

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """Show an event.

        Args:
            step: the optimizer step.
            name: ``gradscope/verdict``, ``gradscope/events/strength``, ``gradscope/events/stopped`` and so on.
            text: in a sentence.
        """

    def alert(self, step: int, title: str, text: str) -> None:  # noqa: B027 (many have nothing to do here)
        """Tell, once, that the run was found not to learn.

        Args:
            step: the optimizer step.
            title: in a few words.
            text: the verdict in a line.
        """

    def close(self) -> None:  # noqa: B027 (many have nothing to do here)
        """Finish: the recording is over, and everything has been shown."""


def checked_sinks(sinks: Sequence[Sink | str]) -> list[Sink]:
    """Check the sinks given to `gradscope.record`.

    Args:
        sinks: sinks, or names of plug-ins.

    Returns:
        The sinks.

    Raises:
        InputError: one is no sink, or no installed package provides it.
    """
    found = [_plugged_sink(sink) if isinstance(sink, str) else sink for sink in sinks]
    for sink in found:
        if not isinstance(sink, Sink):
            raise InputError(f"sinks holds a {type(sink).__name__}; expected {EXPECTED}")
    return found


def _plugged_sink(name: str) -> Any:
    known = plugged("sinks")
    if name not in known:
        raise InputError(
            f"sinks holds {name!r}, and no installed package provides that ({', '.join(known) or 'none'} known); "
            f"expected {EXPECTED}"
        )
    return known[name]()


def shown_part(block: Mapping[str, Any], every: int) -> dict[str, Any]:
    """Select the rows of every n-th step, and of them what `points` shows; empty where there is no such row."""
    rows = np.flatnonzero(block["step"] % every == 0)
    if not len(rows):
        return {}
    wanted = (*(q.name for q in LAYERS), *_GROUPS, "weight_norm")
    return {n: v[rows] for n, v in block.items() if n in wanted or (v.ndim == 1 and n not in _NOT_SHOWN)}


class HistogramPacer:
    """Selects which histograms a sink shows: rows with some, not closer in time than `APART`, at most `MOST` tensors.

    Args:
        told: called once with one line, where tensors are left out.
    """

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told, self._last = told, -math.inf

    def part(self, block: Mapping[str, Any], info: RunInfo) -> list[tuple[int, dict[str, NDArray[np.float32]]]]:
        """Return the steps to show and, by name, the counts of each tensor, [B]."""
        found = []
        for name in (name for name in HISTOGRAMS if name in block):
            shown = min(block[name].shape[1], MOST)
            counted = ~np.isnan(block[name][:, :shown]).all(axis=(1, 2))
            found.append((name, block[name][:, :shown], counted))
        chosen = []
        for row in np.flatnonzero(np.any([counted for *_, counted in found], axis=0)) if found else ():
            if block["time"][row] - self._last < APART:
                continue
            if not np.isfinite(self._last) and len(info.parameters) > MOST:
                self._told(f"histograms are shown of the first {MOST} tensors of {len(info.parameters)}")
            self._last = float(block["time"][row])
            counts = {
                f"gradscope/{name}/{parameter}": values[row, i].copy()
                for name, values, _ in found
                for i, parameter in enumerate(info.parameters[:MOST])
                if not np.isnan(values[row, i]).all()
            }
            chosen.append((int(block["step"][row]), counts))
        return chosen


def points(block: Mapping[str, Any], info: RunInfo, layers: bool) -> list[tuple[int, dict[str, float]]]:
    """Return what a sink shows of these rows: the step, and finite numbers by name."""
    series = network_series(block, info)
    columns = {q.name: getattr(series, q.word) for q in LAYERS}
    columns |= {name: values for name, values in block.items() if values.ndim == 1 and name != "step"}
    if "epoch" in columns:
        columns["epoch"] = np.where(columns["epoch"] < 0, np.nan, columns["epoch"])
    for name in _GROUPS:
        groups = block[name].shape[1]
        columns |= {name if groups == 1 else f"{name}/{group}": block[name][:, group] for group in range(groups)}
    if layers:
        for name in (q.name for q in LAYERS if q.name in block):
            columns |= {f"{name}/{p}": block[name][:, i] for i, p in enumerate(info.parameters)}
    shown = []
    for row, step in enumerate(block["step"]):
        numbers = {f"gradscope/{name}": float(values[row]) for name, values in columns.items()}
        shown.append((int(step), {name: value for name, value in numbers.items() if np.isfinite(value)}))
    return shown
