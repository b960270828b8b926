"""Rules on what a script does that is hardly ever meant."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradscope.diagnosis.rules.columns import Columns, shown
from gradscope.diagnosis.rules.finding import Array, Symptom
from gradscope.run_info import RunInfo


def slips(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find a loss that takes logits and is given probabilities, gradients never cleared, and a rate that went to 0.

    The first two are told with the first rows, by what the loss function was given and by what each backward pass was
    added to. The rate: of every parameter group below a thousandth of its largest, for ``share`` of the rows so far,
    while most of the initial loss is still there.
    """
    first = (rows.number == 0)[:, None]

    def at_once(kind: str, there: bool, text: str, suggestion: str) -> Symptom:
        shows = np.where(first, float(there), np.nan)
        return Symptom(kind, shows, np.ones(shows.shape), ("",), text, "steps looked at", 0.0, suggestion, at_once=True)

    kind = info.applied_twice
    found = [
        at_once("twice", bool(kind), f"the loss takes logits or logarithms, and gets probabilities: a {kind} too many",
                f"leave the {kind} out of the model, or use the loss that takes its results (log_softmax before nll)"),
        at_once("not cleared", info.never_cleared, "gradients are never cleared: each step uses the sum of all so far",
                "call optimizer.zero_grad() in every step"),
    ]  # fmt: skip
    since = rows.series("rate_gone")
    share: Array = since / (rows.number + 1)
    stays = np.nan_to_num(rows.progress[:, 0]) > 0.5
    found.append(
        Symptom(
            kind="rate gone",
            shows=shown((share > o["share"]) & stays, ~np.isnan(since))[:, None],
            values=share[:, None],
            layers=("",),
            text="the learning rate went to 0, and the loss has hardly fallen",
            quantity="share of the rows since then",
            limit=o["share"],
            suggestion="see whether the schedule is counted in steps or in epochs, and how long it is",
        )
    )
    return found
