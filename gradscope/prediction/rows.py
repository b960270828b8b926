"""The rows of a probe, as a reader of tolerance levels needs them: from a record, or from plain arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.series import acting_beside
from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.types import InputError

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

NEEDED = ("loss", "weight_norm", "loss_gradient_norm", "weight_gradient_dot", "loss_gradient_mean_abs", "weight_mean_abs")  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """T rows of a run under one strength; P matrices (parameters with more than one dimension) that it penalises.

    ``step`` [T] counts from 0. ``gradient``, ``weight`` [T, P]: Euclidean norms; ``dot`` [T, P]: ⟨w, ∂L/∂w⟩;
    ``gradient_size``, ``weight_size`` [T, P]: mean |∂L/∂w|, mean |w|. ``rate`` [T]: the learning rate. ``adaptive``,
    ``beside``: an Adam; a penalty that acts beside its step (AdamW, a proximal step). ``baseline``: the loss of the
    best constant answer.
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

    @property
    def kind(self) -> str:
        """What has a reader of its own: ``direct`` (SGD, AdamW), ``coupled`` (L2 inside Adam's step) or ``l1``."""
        return "l1" if self.penalty == "l1" else "coupled" if self.adaptive and not self.beside else "direct"

    @property
    def folding(self) -> float:
        """τ: steps in which the penalty alone shrinks a weight by e, as it is at the first row.

        (1 − μ)/(2ηλ) for SGD, 1/(2ηλ) for AdamW. L1: mean |w| over the threshold ηλ. Coupled Adam, whose step is
        about η whatever the gradient's size: mean |w| over η, times |g| + |r| over |r|. Infinite without a penalty.
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


def probe_of(dataset: xr.Dataset, rows: int | None = None) -> Probe:
    """The probe that a record holds, its first so many rows. Raises `InputError` for one that cannot be read."""
    if missing := [name for name in NEEDED if name not in dataset.variables]:
        hint = "call Recording.log(loss=loss)" if missing[0] == "loss" else 'record with preset="standard"'
        raise InputError(f"the record holds no {missing[0]}, which a prediction needs; {hint}")
    config, capture = json.loads(dataset.attrs["config"]), json.loads(dataset.attrs["capture"])
    table = {name: np.asarray(dataset[name].values[:rows], dtype=np.float64) for name in (*NEEDED, "learning_rate")}
    group = np.asarray(dataset["group"].values, dtype=np.int64)
    penalised = dataset["penalised"].values.astype(bool)
    matrix = np.array([len(config["shapes"][str(name)]) > 1 for name in dataset["parameter"].values])
    seen = np.isfinite(table["loss_gradient_norm"]).any(0) & (group >= 0)
    chosen = matrix & seen & penalised if (matrix & seen & penalised).any() else matrix & seen
    if not chosen.any():
        raise InputError("the record holds no weight matrix that gets a gradient; there is nothing to penalise")
    main = int(np.bincount(group[chosen]).argmax())
    settings: Mapping[str, Any] = config["groups"][main]
    beside = acting_beside(capture.get("penalties", ()), len(config["groups"]))[main]
    return Probe(
        step=np.asarray(dataset["step"].values[:rows], dtype=np.float64),
        loss=table["loss"],
        gradient=table["loss_gradient_norm"][:, chosen],
        weight=table["weight_norm"][:, chosen],
        dot=table["weight_gradient_dot"][:, chosen],
        gradient_size=table["loss_gradient_mean_abs"][:, chosen],
        weight_size=table["weight_mean_abs"][:, chosen],
        numel=np.asarray(dataset["numel"].values, dtype=np.float64)[chosen],
        rate=table["learning_rate"][:, main],
        strength=recorded_strength(dataset),
        penalty=str(dataset.attrs["penalty"]),
        momentum=float(settings.get("momentum", 0.0)),
        adaptive=bool(settings.get("adaptive", False)),
        beside=beside,
        baseline=float(dataset.attrs.get("baseline_loss", np.nan)),
    )
