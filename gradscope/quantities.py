"""Table of all quantities: their names in the file, in figures and in words, and how the network's number is made.

The file's schema, the judge, the rules, reports, pages, live views and sinks read names, titles, axes and notes here. A
new quantity is an entry in `QUANTITIES`, and the listener that measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

STEP, PARAMETER, MODULE, GROUP, BIN, UNIT = "step", "parameter", "module", "group", "bin", "unit"

ALL = ("cheap", "standard", "full")
MORE = ("standard", "full")
FULL = ("full",)


class Whole(StrEnum):
    """How a quantity of the whole network is made; the text is the note under its figure."""

    NONE = ""
    ITSELF = "Smallest and largest of each window."
    MEAN = "Over all penalised parameters."
    SHARE = "Σ|∂L/∂w| over the sum of both gradients."
    LARGEST = "The largest that acts."
    LAST_MODULE = "Of the module that ran last."


@dataclass(frozen=True)
class Quantity:
    """One quantity of a record.

    Attributes:
        name: of its variable in the file.
        dims: of that variable.
        long_name: what it is, as the file says it.
        dtype: of the values in the file.
        units: after the field's habit, "1" for plain numbers.
        presets: those of `gradscope.record` that record it.
        stored: a variable of its own; else it is logged (``loss``) or follows from others (``balance``).
        judged: the judge looks at it.
        ruled: the rules look at it.
        mirrored: sinks show it, where it is one number a row.
        word: what figures, pages and sinks call it, and its field of `gradscope.diagnosis.series.Series`; empty where
            none of them shows it.
        title: over its figure.
        axis: beside its figure.
        symbol: of one layer's value, where a line of text has little room.
        log: it spans decades, so that it is drawn on a logarithmic axis.
        closeup: a figure of its own on a linear axis, too; the logarithmic one is then called ``<word>-closeup``.
        note: what a figure of its layers shows.
        whole: how the number of the whole network is made.
        missing: why it is not there, or how to record it.
        level: a value to compare with, drawn as a line.
    """

    name: str
    dims: tuple[str, ...]
    long_name: str
    dtype: str = "float32"
    units: str = "1"
    presets: tuple[str, ...] = ALL
    stored: bool = True
    judged: bool = False
    ruled: bool = False
    mirrored: bool = True
    word: str = ""
    title: str = ""
    axis: str = ""
    symbol: str = ""
    log: bool = False
    closeup: bool = False
    note: str = ""
    whole: Whole = Whole.NONE
    missing: str = ""
    level: float | None = None


_P, _M, _G, _S = (STEP, PARAMETER), (STEP, MODULE), (STEP, GROUP), (STEP,)
_H, _U = (STEP, PARAMETER, BIN), (STEP, UNIT)
_UNTOUCHED = "no parameter that counts got a gradient"

LOSS = Quantity(
    "loss", _S, "loss of the data, without the penalty", stored=False, judged=True, ruled=True,
    word="loss", title="Training loss", axis="loss", symbol="loss", whole=Whole.ITSELF,
    missing="call run.log(loss=loss) after each step",
)  # fmt: skip
GRADIENT = Quantity(
    "loss_gradient_mean_abs", _P, "mean |∂L/∂w|", judged=True, ruled=True,
    word="gradient", title="Loss gradient", axis="mean |∂L/∂w|", symbol="|∂L/∂w|", log=True, closeup=True,
    note="What the data asks of each layer.", whole=Whole.MEAN, missing=_UNTOUCHED,
)  # fmt: skip
PENALTY = Quantity(
    "penalty_gradient_mean_abs", _P, "mean |λ∂Ω/∂w|", judged=True, ruled=True,
    word="penalty", title="Penalty gradient", axis="mean |λ∂Ω/∂w|", symbol="|λ∂Ω/∂w|", log=True,
    note="What the penalty asks of each layer.", whole=Whole.MEAN, missing=_UNTOUCHED,
)  # fmt: skip
PROPORTION = Quantity(
    "proportion", _P, "mean |∂L/∂w| / (mean |∂L/∂w| + mean |λ∂Ω/∂w|)",
    word="proportion", title="Proportion", axis="share of ∂L/∂w", symbol="proportion",
    note="Mean |∂L/∂w| over the sum of both gradients: near 0 the penalty has the say. In a collapsed run both "
    "underflow, and it can climb again.",
    whole=Whole.SHARE, missing="there was neither a loss gradient nor a penalty gradient",
)  # fmt: skip
WEIGHT = Quantity(
    "weight_mean_abs", _P, "mean |w|", judged=True, ruled=True,
    word="weight", title="Weights", axis="mean |w|", symbol="|w|", log=True,
    note="In a collapse the weights of all layers shrink together.", whole=Whole.MEAN, missing=_UNTOUCHED,
)  # fmt: skip
BALANCE = Quantity(
    "radial_balance", _P, "⟨w, −∂L/∂w⟩ / ⟨w, λ∂Ω/∂w⟩", stored=False,
    word="balance", title="Radial balance", axis="⟨w, −∂L/∂w⟩ / ⟨w, λ∂Ω/∂w⟩", level=1.0,
    note="What the loss gives back of what the penalty takes from the size of the weights: 1 holds them, 0 lets "
    "them go. Without biases and with ReLU the numerator is alike in all layers: then it ranks ‖w‖² only.",
)  # fmt: skip
OUTPUT = Quantity(
    "activation_mean_abs", _M, "mean |activation|", presets=MORE, judged=True, ruled=True,
    word="output", title="Activation scale", axis="mean |activation|", symbol="|activation|", log=True,
    note="The size of each module's output.", whole=Whole.LAST_MODULE,
)  # fmt: skip
SIGNAL = Quantity(
    "activation_std", _M, "RMS over units of the std over samples and positions", presets=MORE, judged=True, ruled=True,
    word="signal", title="Signal", axis="std of activations", symbol="std", log=True,
    note="The part of each module's output that depends on the input.", whole=Whole.LAST_MODULE,
)  # fmt: skip
STRENGTH = Quantity(
    "strength", _G, "regularization strength λ", judged=True,
    word="strength", title="Strength", axis="λ", symbol="λ", whole=Whole.LARGEST,
)  # fmt: skip

QUANTITIES: tuple[Quantity, ...] = (
    LOSS,
    GRADIENT,
    Quantity("loss_gradient_norm", _P, "Euclidean norm of ∂L/∂w", judged=True, ruled=True),
    Quantity("loss_gradient_max_abs", _P, "max |∂L/∂w|", presets=MORE, ruled=True),
    PENALTY,
    PROPORTION,
    WEIGHT,
    Quantity("weight_norm", _P, "Euclidean norm of w", judged=True, ruled=True),
    Quantity("weight_max_abs", _P, "max |w|", presets=MORE, ruled=True),
    Quantity("weight_zero_fraction", _P, "share of weights that are exactly 0", presets=MORE),
    Quantity("weight_gradient_dot", _P, "⟨w, ∂L/∂w⟩", presets=MORE, judged=True, ruled=True),
    BALANCE,
    Quantity(
        "nonfinite_count", _P, "gradient entries that are not finite", "int32", presets=MORE, judged=True, ruled=True
    ),
    Quantity("update_mean_abs", _P, "mean |change of w in this step|", presets=FULL, ruled=True),
    Quantity("update_proportion", _P, "mean |Δw by the loss| / (the same + mean |Δw by the penalty|)", presets=FULL),
    Quantity("gradient_coherence", _P, "cosine of ∂L/∂w with that of the row before that has it", presets=FULL),
    Quantity("weight_histogram", _H, "entries of w by |w|", presets=FULL),
    Quantity("loss_gradient_histogram", _H, "entries of ∂L/∂w by |∂L/∂w|", presets=FULL),
    OUTPUT,
    SIGNAL,
    Quantity(
        "activation_zero_fraction", _M, "share of activations that are exactly 0", presets=MORE, judged=True, ruled=True
    ),
    Quantity("activation_gradient_mean_abs", _M, "mean |∂L/∂activation|", presets=FULL),
    Quantity(
        "activation_dead_fraction", _M, "share of units that are 0 for every sample and position", presets=FULL,
        ruled=True,
    ),
    Quantity("activation_unit_mean_abs", _U, "mean |activation| of a unit", presets=FULL),
    STRENGTH,
    Quantity("learning_rate", _G, "learning rate", judged=True, ruled=True),
    Quantity("epoch", _S, "epoch, -1 while unknown", "int32", ruled=True),
    Quantity("time", _S, "time since the start of the recording", "float64", "s", mirrored=False),
    Quantity("skipped", _S, "step skipped (AMP overflow)", "bool", ruled=True, mirrored=False),
    Quantity("clip_coefficient", _S, "norm of all gradients after and before clipping, their ratio", judged=True),
    Quantity("numel", (PARAMETER,), "number of entries", "int64"),
    Quantity("penalised", (PARAMETER,), "a penalty acts on this parameter", "bool"),
    Quantity(
        "group", (PARAMETER,), "parameter group, counted over all optimizers; -1: in none at the start", "int64"
    ),
)  # fmt: skip

#: What the judge and the rules read of a record, beside ``step``.
JUDGED = tuple(q.name for q in QUANTITIES if q.judged)
RULED = tuple(q.name for q in QUANTITIES if q.ruled)
#: What is shown of a layer, of a module, and of the whole network, by its word; of the network what a page shows.
BY_LAYER = {q.word: q for q in QUANTITIES if q.word and q.dims == _P}
BY_MODULE = {q.word: q for q in (SIGNAL, OUTPUT)}
OF_NETWORK = {q.word: q for q in (LOSS, GRADIENT, PENALTY, PROPORTION, WEIGHT, STRENGTH)}
#: What tells runs apart, side by side.
COMPARED = (LOSS, GRADIENT, PROPORTION, WEIGHT)


def of_modules(preset: str) -> tuple[str, ...]:
    """Return the variables along ``module`` that this preset records, in the order of the file."""
    return tuple(q.name for q in QUANTITIES if q.dims == _M and preset in q.presets)


class Sum(IntEnum):
    """Sums that the kernels take of a gradient, of weights, and of both, numbered as the rows of their tables."""

    GRADIENT_L1 = 0
    GRADIENT_NORM = 1
    GRADIENT_MAX = 2
    GRADIENT_NONFINITE = 3
    WEIGHT_L1 = 4
    WEIGHT_NORM = 5
    WEIGHT_MAX = 6
    WEIGHT_NONZERO = 7
    DOT = 8


#: Digits of a strength, wherever one stands in a text.
DIGITS = 4


def magnitude_edges(bins: Sequence[float]) -> list[float]:
    """Return the edges of histograms over log₂ of the size, as tools with one axis show them.

    The two columns that have no logarithm, exact zeros and what is below the bins, stand left of these.

    Args:
        bins: lower edges of the columns, as in the record, [B].

    Returns:
        Edges, [B + 1].
    """
    exponent = [math.log2(edge) for edge in bins[2:]]
    return [exponent[0] - 4, exponent[0] - 2, *exponent, exponent[-1] + 2]


@dataclass(frozen=True)
class Strength:
    """Regularization strength λ of a penalty, which for L2 is half of what PyTorch calls ``weight_decay``.

    Attributes:
        value: λ, as it multiplies Ω.
        penalty: the penalty's word, such as ``"l2"``; ``"l2 in group 1"`` is one of L2, too.
    """

    value: float
    penalty: str

    @property
    def weight_decay(self) -> float | None:
        """2λ for L2 (Ω = ‖w‖²), None for another penalty."""
        return weight_decay(self.value, self.penalty)

    @property
    def short(self) -> str:
        """One number, as people call it: ``weight_decay 0.08``, ``λ = 0.04``."""
        decay = self.weight_decay
        return f"λ = {self.value:.{DIGITS}g}" if decay is None else f"weight_decay {decay:.{DIGITS}g}"

    def __str__(self) -> str:
        """Write it in full, for L2 with PyTorch's name first: ``weight_decay 0.08 (λ 0.04)``; else ``λ 0.04``."""
        own, decay = f"λ {self.value:.{DIGITS}g}", self.weight_decay
        return own if decay is None else f"weight_decay {decay:.{DIGITS}g} ({own})"


def weight_decay(strength: float | None, penalty: str) -> float | None:
    """Return 2λ for L2; None for another penalty, and for a strength that is not known."""
    return None if strength is None or not is_l2(penalty) else 2 * strength


def is_l2(penalty: str) -> bool:
    """Return whether strengths of this penalty are half of a ``weight_decay``."""
    return penalty.split(maxsplit=1)[:1] == ["l2"]


def strength_axis(penalties: Iterable[str]) -> str:
    """Return the name of an axis of strengths; where all are L2, with PyTorch's name."""
    penalties = list(penalties)
    return "strength λ (weight_decay is 2λ)" if penalties and all(map(is_l2, penalties)) else "strength λ"
