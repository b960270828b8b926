"""Diagnose a recorded run."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from gradscope.diagnosis.cost import Finished
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import feed, refuse_empty
from gradscope.diagnosis.recorded_run import Recorded, recorded
from gradscope.diagnosis.rules.catalogue import Chosen
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.post_hoc import validation_losses
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import JUDGED
from gradscope.store.record import Record

if TYPE_CHECKING:
    import xarray as xr


def diagnose(record: str | os.PathLike[str] | xr.Dataset, thresholds: Thresholds | None = None) -> Diagnosis:
    """Diagnose a recorded run, as `gradscope diagnose` does, rules included.

    Args:
        record: the path of a record, or the dataset that `gradscope.open_run` returns.
        thresholds: of the judge; its own by default.

    Returns:
        Verdict, onset, evidence, remedy, findings; ``print`` shows all of it.

    Raises:
        RecordNotFoundError: there is no such file.
        InputError: it is no record, or one without rows.
    """  # noqa: DOC502 - raised by what it calls
    if isinstance(record, str | os.PathLike):
        with Record(record) as opened:
            return judged(opened, thresholds=thresholds)[0]
    return judged(recorded(record), thresholds=thresholds)[0]


def judged(
    record: Recorded, rules: Chosen | None = None, thresholds: Thresholds | None = None
) -> tuple[Diagnosis, Checker]:
    """Judge a record and check the rules, reading it once; raise as `diagnose` does."""
    refuse_empty(record)
    judge = Judge(record.info, thresholds)
    checker = Checker(record.info, rules, validation_losses(record.metrics))
    feed({judge: JUDGED, checker: NEEDED}, record)
    return replace(judge.diagnosis(finished=record.finished), findings=tuple(checker.findings)), checker


def finished(path: str | os.PathLike[str], failed: bool) -> Finished:
    """Summarise a record for `gradscope.diagnosis.cost.costs`, with the verdict that was given."""
    with Record(path) as record:
        return Finished(record.path.name, record.strength, failed, record.metrics)
