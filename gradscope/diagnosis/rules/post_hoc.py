"""Check the rules on a recorded run as on a live one, fed from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.recorded_run import Recorded, recorded
from gradscope.diagnosis.rules.catalogue import Chosen
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.derived import VALIDATION

if TYPE_CHECKING:
    import xarray as xr

Metrics = Mapping[str, NDArray[Any]]


def check(source: Recorded | xr.Dataset, rules: Chosen | None = None, epoch_metrics: Metrics | None = None) -> Checker:
    """Check every row of the record.

    Args:
        source: a record, or what `gradscope.open_run` returns.
        rules: what `catalogue.chosen` returns, all by default.
        epoch_metrics: those of a dataset, which has none itself; `overfitting_gap` looks for a validation loss in them.

    Returns:
        The checker, with what it found.
    """
    record = recorded(source)
    checker = Checker(record.info, rules, validation_losses(record.metrics if epoch_metrics is None else epoch_metrics))
    feed({checker: NEEDED}, record)
    return checker


def validation_losses(metrics: Metrics) -> dict[int, float]:
    """Return the validation loss by epoch, under the first of its usual names that is there."""
    name = next((name for name in VALIDATION if name in metrics), None)
    if name is None:
        return {}
    return {int(k): float(v) for k, v in zip(metrics["epoch"], metrics[name], strict=True)}
