"""Rules on what modules put out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradscope.diagnosis.rules.columns import Columns, shown
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.run_info import RunInfo

#: Modules that put out zeros by design.
ZEROS = ("Dropout", "Embedding", "Softmax", "Pad", "Identity", "Flatten")


def dead_units(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find units that are 0 for every sample, step after step: they get no gradient and never come back.

    The preset ``full`` tells units one by one. Elsewhere only the share of zeros is known; where at most ``share`` ·
    ``inactivity`` of all outputs are not 0, at most that share of units can be active in more than ``inactivity`` of
    the samples (Markov's inequality), so the other share is dead for certain.
    """
    zero, dead = rows.get("activation_zero_fraction"), rows.get("activation_dead_fraction")
    if zero is None:
        return []
    sparse = np.array([any(part in facts.module_types.get(name, "") for part in ZEROS) for name in facts.modules])
    # A step of a single sample cannot tell a unit that is off from one that is dead.
    single = (rows.like("activation_std", zero) == 0) & (zero < 1)
    certain = 1 - (1 - o["share"]) * o["inactivity"]
    values, limit, quantity = (zero, certain, "share of zeros") if dead is None else (dead, o["share"], "dead share")
    what = f"{o['share']:.0%} or more of the units are dead"
    return [
        Symptom(
            kind="dead",
            shows=shown(values >= limit, ~np.isnan(values) & ~single & ~sparse),
            values=values,
            layers=facts.modules,
            text=what,
            quantity=quantity,
            limit=limit,
            suggestion="lower the learning rate, start with smaller biases, or use LeakyReLU or GELU in these layers",
        )
    ]


def saturated_activations(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find tanh and sigmoid outputs so close to their ends that hardly any gradient passes.

    With m = mean |a| and s the recorded std, E[a²] ≥ m² + … bounds the mean slope from above: 1 − m² for tanh, 4(m − m²
    − s²) for the sigmoid, each as a share of the largest slope. The last module is left out: the outputs of a good
    classifier are saturated.
    """
    size = rows.get("activation_mean_abs")
    if size is None or not facts.module_types:
        return []
    kinds = [facts.module_types.get(name, "") for name in facts.modules[:-1]] + [""]
    tanh, sigmoid = (np.array([kind == name for kind in kinds]) for name in ("Tanh", "Sigmoid"))
    spread = np.nan_to_num(rows.like("activation_std", size))
    with np.errstate(invalid="ignore", over="ignore"):  # of modules whose outputs are infinite
        slope = np.where(tanh, 1 - size**2, np.where(sigmoid, 4 * (size - size**2 - spread**2), np.nan))
        slope = np.maximum(slope, 0.0)
    return [
        Symptom(
            kind="saturated",
            shows=shown(slope < o["slope"], ~np.isnan(slope)),
            values=slope,
            layers=facts.modules,
            text="outputs are saturated",
            quantity="mean slope at most",
            limit=o["slope"],
            suggestion="start with smaller weights (Xavier), normalise the inputs, or put a normalisation before them",
        )
    ]
