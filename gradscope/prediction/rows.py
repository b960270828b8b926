"""Rows of a probe, as a reader of tolerance levels needs them: from a record, or from plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.run_info import RunInfo
from gradscope.store.record import Record
from gradscope.types import InputError

Array = NDArray[np.float64]

NEEDED = (
    "loss", "weight_norm", "loss_gradient_norm", "weight_gradient_dot", "loss_gradient_mean_abs", "weight_mean_abs",
)  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """T rows of a run under one strength, of the P matrices (more than one dimension) that it penalises.

    Attributes:
        step: from 0, [T].
        loss: of the data, [T].
        gradient: ‖∂L/∂w‖, [T, P].
        weight: ‖w‖, [T, P].
        dot: ⟨w, ∂L/∂w⟩, [T, P].
        gradient_size: mean |∂L/∂w|, [T, P].
        weight_size: mean |w|, [T, P].
        numel: entries of each matrix, [P].
        rate: learning rate, [T].
        strength: λ.
        penalty: its name.
        momentum: that of SGD.
        adaptive: the optimizer is an Adam.
        beside: the penalty acts beside its step (AdamW, a proximal step).
        baseline: loss of the best constant answer.
        optimizer: its class.
    """

    step: Array
    loss: Array
    gradient: Array
    weight: Array
    dot: Array
    gradient_size: Array
    weight_size: Array
    numel: Array
    rate: Array
    strength: float
    penalty: str
    momentum: float
    adaptive: bool
    beside: bool
    baseline: float
    optimizer: str = "SGD"

    @property
    def kind(self) -> str:
        """What has a reader of its own: ``direct`` (SGD, AdamW), ``coupled`` (L2 inside Adam's step) or ``l1``.

        For anything else, the words in which a user is told that there is none.
        """
        if self.optimizer not in ("SGD", "Adam", "AdamW"):
            return f"the optimizer {self.optimizer}"
        if self.penalty == "l2":
            return "coupled" if self.adaptive and not self.beside else "direct"
        if self.penalty == "l1" and self.beside and not self.adaptive:
            return "l1"
        return f"the penalty {self.penalty} " + ("under Adam" if self.adaptive else "that acts through the gradient")

    @property
    def folding(self) -> float:
        """τ: steps in which the penalty alone shrinks a weight by e, as it is at the first row.

        (1 − μ)/(2ηλ) for SGD, 1/(2ηλ) for AdamW. L1: mean |w| over the threshold ηλ. Coupled Adam, whose step is about
        η whatever the gradient's size: mean |w| over η, times |g| + |r| over |r|. Infinite without a penalty.
        """
        rate = float(np.nanmean(self.rate))
        if not (self.strength > 0 and rate > 0):
            return np.inf
        if self.kind == "direct":
            gain = 1.0 if self.adaptive else 1 / (1 - min(self.momentum, 0.9999))
            return 1 / (2 * rate * self.strength * gain)
        weight, gradient = (float(np.average(x[0], weights=self.numel)) for x in (self.weight_size, self.gradient_size))
        if self.kind == "l1":
            return weight / (rate * self.strength)
        pull = 2 * self.strength * weight
        return weight / rate * (gradient + pull) / pull

    def first(self, rows: int) -> Probe:
        """Return the first so many rows."""
        return self._each(lambda values: values[:rows])

    def after(self, delay: int) -> Probe:
        """Leave out the steps before this one, and count from it."""
        kept = self.step >= delay
        return replace(self._each(lambda values: values[kept]), step=self.step[kept] - delay)

    def acted(self, skipped: NDArray[Any]) -> Probe:
        """Leave out the steps that a GradScaler skipped, [T], in which no penalty acted; the others move together."""
        kept = self._each(lambda values: values[skipped == 0])
        return replace(kept, step=self.step[: len(kept.step)])

    def averaged(self, every: int) -> Probe:
        """Average each ``every`` rows into one, with the step of the last; what is left over is left out."""
        count = len(self.step) // every

        def means(values: Array) -> Array:
            return np.asarray(values[: count * every].reshape(count, every, *values.shape[1:]).mean(1))

        return replace(self._each(means), step=self.step[every - 1 : count * every : every])

    def _each(self, change: Callable[[Array], Array]) -> Probe:
        return replace(
            self,
            step=change(self.step),
            loss=change(self.loss),
            gradient=change(self.gradient),
            weight=change(self.weight),
            dot=change(self.dot),
            gradient_size=change(self.gradient_size),
            weight_size=change(self.weight_size),
            rate=change(self.rate),
        )


def probe_of(record: Record, penalty: str = "l2", rows: int | None = None) -> Probe:
    """Read the probe that a record holds.

    Args:
        record: the record.
        penalty: the one that is asked about, for a record of a run without any.
        rows: the first so many only.

    Returns:
        The probe.

    Raises:
        InputError: the record cannot be read as a probe.
    """  # noqa: DOC502 - raised by what it calls
    names = (*NEEDED, "learning_rate")
    columns = {name: record.column(name, slice(rows)) for name in names if name in record}
    strength = record.strength.value or 0.0
    steps = record.steps[slice(rows)]
    return probe_from(columns, steps, record.info, record.config["groups"], strength, penalty)


def probe_from(
    columns: Mapping[str, NDArray[Any]],
    steps: NDArray[Any],
    info: RunInfo,
    groups: Sequence[Mapping[str, Any]],
    strength: float,
    penalty: str = "l2",
) -> Probe:
    """Make a probe of rows, wherever they are.

    Args:
        columns: of `NEEDED` and ``learning_rate``, [T, …].
        steps: of the rows, [T].
        info: of the run.
        groups: settings of its parameter groups.
        strength: λ.
        penalty: as in `probe_of`.

    Returns:
        The probe.

    Raises:
        InputError: they cannot be read as a probe.
    """
    if missing := [name for name in NEEDED if name not in columns]:
        hint = "call Recording.log(loss=loss)" if missing[0] == "loss" else 'record with preset="standard"'
        raise InputError(f"the record holds no {missing[0]}, which a prediction needs; {hint}")
    table = {name: columns[name].astype(np.float64) for name in (*NEEDED, "learning_rate")}
    chosen = info.matrices & np.isfinite(table["loss_gradient_norm"]).any(0) & (info.group >= 0)
    if (chosen & info.penalised).any():
        chosen &= info.penalised
    if not chosen.any():
        raise InputError("the record holds no weight matrix that gets a gradient; there is nothing to penalise")
    main = int(np.bincount(info.group[chosen]).argmax())
    settings = groups[main]
    without = penalty == "l1" or bool(settings.get("decoupled", False))
    return Probe(
        step=steps.astype(np.float64),
        loss=table["loss"],
        gradient=table["loss_gradient_norm"][:, chosen],
        weight=table["weight_norm"][:, chosen],
        dot=table["weight_gradient_dot"][:, chosen],
        gradient_size=table["loss_gradient_mean_abs"][:, chosen],
        weight_size=table["weight_mean_abs"][:, chosen],
        numel=info.numel[chosen],
        rate=table["learning_rate"][:, main],
        strength=strength,
        penalty=info.penalty if strength else penalty,
        momentum=info.momentum[main],
        adaptive=info.adaptive[main],
        beside=info.beside[main] if strength else without,
        baseline=info.baseline_loss,
        optimizer=str(settings.get("class", "")),
    )


def invariant_share(record: Record) -> float:
    """Compute the share of ‖w‖² at the first row in matrices whose scale the loss does not depend on."""
    return share_invariant(record.column("weight_norm", 0), record.info, record.capture)


def share_invariant(norms: NDArray[Any], info: RunInfo, capture: Mapping[str, Any]) -> float:
    """Compute the same from the norms ‖w‖ of one row, [P], and what a record's capture says."""
    found = capture.get("scale_invariant", {}).get("parameters") or {}
    square = np.nan_to_num(norms.astype(np.float64) ** 2)
    without = info.matrices & np.array([name in found for name in info.parameters])
    return float(square[without].sum() / max(square[info.matrices].sum(), 1e-30))
