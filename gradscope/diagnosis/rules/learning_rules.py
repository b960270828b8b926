"""Rules on the start of a run, its loss, and its loss on other data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.rules.columns import Columns, shown
from gradscope.diagnosis.rules.finding import Array, Symptom
from gradscope.run_info import RunInfo

WHOLE = ("",)
#: A normal distribution's standard deviation in median distances from its median.
DEVIATION = 1.4826
#: mean |w| and the root mean square of w agree to this share where all entries are equal, in float32.
EQUAL = 1e-5
#: Shares of the baseline: a loss on other data above is at chance, a training loss below has learned.
CHANCE, LEARNED = 0.98, 0.92


def poor_initialisation(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find initial weights that the first ``rows`` rows show to be poor.

    A loss that begins far above that of a constant predictor; gradients of the first weight matrix many times smaller
    or larger than of the last, while the loss stays where it began and before a penalty has crushed the weights; a
    matrix whose entries are all equal, so that its units stay copies of each other.
    """
    early = (rows.number < o["rows"])[:, None]
    return [*_loss_at_start(rows, facts, o, early), *_flow(rows, facts, o, early), *_equal_entries(rows, facts)]


def _loss_at_start(rows: Columns, facts: RunInfo, o: Mapping[str, float], early: NDArray[np.bool_]) -> list[Symptom]:
    if not facts.sure_baseline > 0:
        return []
    ratio = rows.series("loss")[:, None] / facts.sure_baseline
    advice = "start the last layer with smaller weights and its bias at the class frequencies"
    if facts.loss_of_zero > o["loss"]:
        advice = "the targets are far from 0: scale them to mean 0 and variance 1, or begin the last bias at their mean"
    return [
        Symptom(
            kind="loss",
            shows=shown(ratio > o["loss"], early & ~np.isnan(ratio)),
            values=ratio,
            layers=WHOLE,
            text="the loss begins far above that of a constant prediction",
            quantity="loss/baseline",
            limit=o["loss"],
            suggestion=advice,
        )
    ]


def _flow(rows: Columns, facts: RunInfo, o: Mapping[str, float], early: NDArray[np.bool_]) -> list[Symptom]:
    norm = rows.get("loss_gradient_norm")
    matrices = np.flatnonzero(facts.matrices & ~facts.frozen)
    if norm is None or len(matrices) < 2:
        return []
    first, last = norm[:, matrices[0]][:, None], norm[:, matrices[-1]][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(last > 0, first / last, np.nan)
    progress = rows.progress
    crushed = rows.crushed(norm)[:, matrices].any(1, keepdims=True)
    usable = early & rows.stepped & ~np.isnan(ratio) & ~np.isnan(progress) & ~crushed
    stuck = progress > 0.95
    ends = f"first ({facts.parameters[matrices[0]]}) over last ({facts.parameters[matrices[-1]]}) gradient norm"

    def symptom(kind: str, there: NDArray[np.bool_], limit: float, what: str) -> Symptom:
        return Symptom(
            kind=kind,
            shows=shown(there & stuck, usable),
            values=ratio,
            layers=WHOLE,
            text=f"gradients {what} on their way to the first layer, and the loss stays where it began",
            quantity=ends,
            limit=limit,
            suggestion="use He (ReLU) or Xavier (tanh) initialisation, residual connections or a normalisation",
        )

    vanish = (ratio < o["vanish"]) & (first < o["vanish_norm"])
    return [
        symptom("vanishing", vanish, o["vanish"], "vanish"),
        symptom("exploding", ratio > o["explode"], o["explode"], "explode"),
    ]


def _equal_entries(rows: Columns, facts: RunInfo) -> list[Symptom]:
    mean, norm = rows.get("weight_mean_abs"), rows.get("weight_norm")
    if mean is None or norm is None:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = norm / np.sqrt(np.maximum(facts.numel, 1.0)) / mean
    usable = (rows.number == 0)[:, None] & facts.grids & ~facts.frozen & (mean > 0)
    return [
        Symptom(
            kind="equal",
            shows=shown(np.abs(ratio - 1) < EQUAL, usable),
            values=ratio,
            layers=facts.parameters,
            text="all entries begin with the same size, so units are copies of each other",
            quantity="root mean square over mean |w|",
            limit=1.0,
            suggestion="draw the weights at random",
            at_once=True,
        )
    ]


def loss_spikes(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find a loss far above those just before it, by their own scatter and by the scale of the loss at the start.

    Two rows that follow each other have to show it, or one that is very far off. (Where the loss is near 0, one sample
    of a small batch that the net gets wrong makes a row like that; it comes and goes in healthy runs.) The last step of
    an epoch does not count, as far as epochs are known: the batch there may be a rest of a few samples.
    """
    loss, before, start = (rows.series(name) for name in ("loss", "loss_before", "initial_loss"))
    height, stays = loss - before, np.fmin(loss, rows.series("loss_last")) - before
    with np.errstate(divide="ignore", invalid="ignore"):
        share, lasting = (np.where(start > 0, values / start, np.nan) for values in (height, stays))
    far = o["deviations"] * DEVIATION * rows.series("loss_spread")
    high = ((height > far) & (share > o["alone"])) | ((stays > far) & (lasting > o["height"]))
    return [
        Symptom(
            kind="spike",
            shows=shown(high, ~np.isnan(share) & ~(rows.series("epoch_end") == 1))[:, None],
            values=share[:, None],
            layers=WHOLE,
            text="the loss has jumped",
            quantity="height in initial losses",
            limit=o["height"],
            suggestion="look at the batch of that step, clip gradients, or lower the learning rate (or Adam's beta2)",
        )
    ]


def overfitting_gap(rows: Columns, facts: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find a loss on other data that rises from its best while the training loss falls on, with a gap between the two.

    A loss on other data that was never better than that of a constant prediction, while the training loss is clearly
    below it, is found, too.
    """
    other, best = rows.series("validation"), rows.series("best_validation")
    training, then = rows.series("training"), rows.series("training_at_best")
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(training > 0, (other - training) / training, np.nan)
    apart = (other > best * (1 + o["rise"])) & (training < then) & (gap > o["gap"])
    return [
        Symptom(
            kind="gap",
            shows=shown(apart, ~np.isnan(gap) & (best > 0) & ~np.isnan(then))[:, None],
            values=gap[:, None],
            layers=WHOLE,
            text="the loss on other data rises while the training loss falls",
            quantity="(validation − training)/training",
            limit=o["gap"],
            suggestion="stop at the best validation loss, regularise more (a delayed penalty too), or get more data",
        ),
        *_at_chance(rows, facts),
    ]


def _at_chance(rows: Columns, facts: RunInfo) -> list[Symptom]:
    if not facts.sure_baseline > 0:
        return []
    other, best, training = (rows.series(name) for name in ("validation", "best_validation", "training"))
    worst: Array = np.fmin(other, best) / facts.sure_baseline
    chance = (worst > CHANCE) & (training < LEARNED * facts.sure_baseline)
    return [
        Symptom(
            kind="chance",
            shows=shown(chance, ~np.isnan(worst + training))[:, None],
            values=worst[:, None],
            layers=WHOLE,
            text="the loss on other data was never better than that of a constant prediction: what is learned is "
            "learned by heart",
            quantity="best validation loss/baseline",
            limit=CHANCE,
            suggestion="see whether labels and inputs belong together, and whether both sets are prepared alike",
        )
    ]
