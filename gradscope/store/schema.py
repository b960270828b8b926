"""The one table of what a record may hold: names, dimensions, types, units, meanings, presets."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1

STEP, PARAMETER, MODULE, GROUP, BIN, UNIT = "step", "parameter", "module", "group", "bin", "unit"

ALL = ("cheap", "standard", "full")
MORE = ("standard", "full")
FULL = ("full",)


@dataclass(frozen=True)
class Variable:
    """One variable of a record. ``units`` follow the field's habit: "1" for plain numbers."""

    name: str
    dims: tuple[str, ...]
    long_name: str
    dtype: str = "float32"
    units: str = "1"
    presets: tuple[str, ...] = ALL


_P, _M, _G, _S = (STEP, PARAMETER), (STEP, MODULE), (STEP, GROUP), (STEP,)
_H, _U = (STEP, PARAMETER, BIN), (STEP, UNIT)

VARIABLES: tuple[Variable, ...] = (
    Variable("loss_gradient_mean_abs", _P, "mean |∂L/∂w|"),
    Variable("loss_gradient_norm", _P, "Euclidean norm of ∂L/∂w"),
    Variable("loss_gradient_max_abs", _P, "max |∂L/∂w|", presets=MORE),
    Variable("penalty_gradient_mean_abs", _P, "mean |λ∂Ω/∂w|"),
    Variable("proportion", _P, "mean |∂L/∂w| / (mean |∂L/∂w| + mean |λ∂Ω/∂w|)"),
    Variable("weight_mean_abs", _P, "mean |w|"),
    Variable("weight_norm", _P, "Euclidean norm of w"),
    Variable("weight_max_abs", _P, "max |w|", presets=MORE),
    Variable("weight_zero_fraction", _P, "share of weights that are exactly 0", presets=MORE),
    Variable("weight_gradient_dot", _P, "⟨w, ∂L/∂w⟩", presets=MORE),
    Variable("nonfinite_count", _P, "gradient entries that are not finite", dtype="int32", presets=MORE),
    Variable("update_mean_abs", _P, "mean |change of w in this step|", presets=FULL),
    Variable("update_proportion", _P, "mean |Δw by the loss| / (the same + mean |Δw by the penalty|)", presets=FULL),
    Variable("gradient_coherence", _P, "cosine of ∂L/∂w with that of the row before", presets=FULL),
    Variable("weight_histogram", _H, "entries of w by |w|", presets=FULL),
    Variable("loss_gradient_histogram", _H, "entries of ∂L/∂w by |∂L/∂w|", presets=FULL),
    Variable("activation_mean_abs", _M, "mean |activation|", presets=MORE),
    Variable("activation_std", _M, "RMS over units of the std over samples and positions", presets=MORE),
    Variable("activation_zero_fraction", _M, "share of activations that are exactly 0", presets=MORE),
    Variable("activation_gradient_mean_abs", _M, "mean |∂L/∂activation|", presets=FULL),
    Variable("activation_dead_fraction", _M, "share of units that are 0 for every sample and position", presets=FULL),
    Variable("activation_unit_mean_abs", _U, "mean |activation| of a unit", presets=FULL),
    Variable("strength", _G, "regularization strength λ"),
    Variable("learning_rate", _G, "learning rate"),
    Variable("epoch", _S, "epoch, -1 while unknown", dtype="int32"),
    Variable("time", _S, "time since the start of the recording", dtype="float64", units="s"),
    Variable("skipped", _S, "step skipped (AMP overflow)", dtype="bool"),
    Variable("clip_coefficient", _S, "norm of all gradients after and before clipping, their ratio"),
    Variable("numel", (PARAMETER,), "number of entries", dtype="int64"),
    Variable("penalised", (PARAMETER,), "a penalty acts on this parameter", dtype="bool"),
    Variable(
        "group", (PARAMETER,), "parameter group, counted over all optimizers; -1: in none at the start", dtype="int64"
    ),
)

#: The dimensions with labels, in the order of the file. `group` is a dimension without labels.
COORDINATES: dict[str, str] = {
    STEP: "optimizer step, counted from 0, skipped ones included",
    PARAMETER: "parameter, by its name in the plain model",
    MODULE: "module, by its name in the plain model",
    BIN: "lower edge of a bin of sizes, a factor of 4 apart; 0: exact zeros; the next: all below the third",
    UNIT: "unit of a module (a channel, a neuron), as module:index",
}

BY_NAME = {variable.name: variable for variable in VARIABLES}


def scalar(name: str) -> Variable:
    """A scalar that `Recording.log` was given."""
    return Variable(name, (STEP,), "loss of the data, without the penalty" if name == "loss" else name)


def variable(name: str) -> Variable:
    """The variable of this name; an unknown one is a logged scalar."""
    return BY_NAME.get(name) or scalar(name)


def table() -> str:
    """The variables as the Markdown table that stands in docs/file-format.md."""
    lines = ["| variable | dims | type | units | meaning | presets |", "|---|---|---|---|---|---|"]
    for v in VARIABLES:
        dims = ", ".join(f"`{dim}`" for dim in v.dims)
        presets = "all" if v.presets == ALL else ", ".join(v.presets)
        meaning = v.long_name.replace("|", "\\|")
        lines.append(f"| `{v.name}` | {dims} | {v.dtype} | {v.units} | {meaning} | {presets} |")
    lines += ["", "| coordinate | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in COORDINATES.items()]
    return "\n".join(lines)
