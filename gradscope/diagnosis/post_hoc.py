"""A recorded run before the judge: the same judge as live, fed from a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.series import RunInfo
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import JUDGED
from gradscope.types import InputError

if TYPE_CHECKING:
    import xarray as xr


def diagnose(dataset: xr.Dataset, thresholds: Thresholds | None = None) -> Diagnosis:
    """The diagnosis of a recorded run, as `gradscope diagnose` prints it.

    ``dataset``: what `gradscope.open_run` returns. Raises `InputError` for a record without rows or
    without the variables every record has.
    """
    judge = judge_record(dataset, thresholds)
    return judge.diagnosis(finished=dataset.attrs["status"] == "finished")


#: Rows read at a time; bounds the memory that a long record takes.
BLOCK = 65536


def judge_record(dataset: xr.Dataset, thresholds: Thresholds | None = None) -> Judge:
    """A judge that has seen every row of the record. Raises `InputError` for what is none."""
    if not hasattr(dataset, "variables"):  # not isinstance: xarray is imported by those who read alone
        raise InputError(f"expected the dataset of a record, as gradscope.open_run(path) gives it; got {dataset!r}")
    missing = [name for name in ("step", "numel", "penalised", "group") if name not in dataset.variables]
    if missing:
        raise InputError(f"not a gradscope record: it has no {', '.join(missing)}")
    if not dataset.sizes["step"]:
        raise InputError("the record is empty: no training step was recorded, so there is nothing to diagnose")
    info = RunInfo.from_record(dataset["parameter"].values, dataset, dataset.attrs)
    judge = Judge(info, thresholds)
    feed(judge, dataset)
    return judge


def feed(judge: Judge, dataset: xr.Dataset) -> None:
    """Every row of a record to a judge, in bounded memory."""
    for start in range(0, dataset.sizes["step"], BLOCK):
        part = dataset.isel(step=slice(start, start + BLOCK))
        judge.update({name: part[name].values for name in ("step", *JUDGED) if name in part.variables})
