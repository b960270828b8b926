"""A recorded run before the judge and the rules: the same as live, fed from a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.recorded import Recorded, Rows, recorded
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.quantities import JUDGED
from gradscope.types import InputError

if TYPE_CHECKING:
    import xarray as xr


class TakesRows(Protocol):
    """What is fed: a judge, a checker, what a page keeps."""

    def update(self, rows: Rows) -> object: ...


def judge_record(source: Recorded | xr.Dataset, thresholds: Thresholds | None = None) -> Judge:
    """A judge that has seen every row of the record. Raises `InputError` for what is none, and for one without rows."""
    record = recorded(source)
    refuse_empty(record)
    judge = Judge(record.info, thresholds)
    feed({judge: JUDGED}, record)
    return judge


def refuse_empty(record: Recorded) -> None:
    """Raise `InputError` for a record without rows."""
    if not record.rows:
        raise InputError("the record is empty: no training step was recorded, so there is nothing to diagnose")


def feed(who: dict[TakesRows, tuple[str, ...]], record: Recorded, before: int | None = None) -> None:
    """Every row of a record, or those before a step, read once in bounded memory; to each the columns that it takes."""
    names = tuple(dict.fromkeys(name for wanted in who.values() for name in wanted))
    for block in record.blocks(names, before):
        for one, wanted in who.items():
            one.update({name: block[name] for name in ("step", *wanted) if name in block})
