"""Judge a recorded run as a live one, fed from its record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.recorded_run import Recorded, Rows, recorded
from gradscope.diagnosis.thresholds import Thresholds
from gradscope.quantities import JUDGED
from gradscope.run_info import Sibling
from gradscope.types import InputError

if TYPE_CHECKING:
    import xarray as xr


class TakesRows(Protocol):
    """Consumer of rows: a judge, a checker, the summary of a page."""

    def update(self, rows: Rows) -> object:
        """Take a block of rows."""


def judge_record(
    source: Recorded | xr.Dataset, thresholds: Thresholds | None = None, siblings: tuple[Sibling, ...] = ()
) -> Judge:
    """Judge every row of the record; raise `InputError` for what is no record, and for one without rows.

    ``siblings``: finished runs of its configuration, where the record names none.

    Returns:
        The judge.
    """
    record = recorded(source)
    refuse_empty(record)
    judge = Judge(replace(record.info, siblings=record.info.siblings or siblings), thresholds)
    feed({judge: JUDGED}, record)
    return judge


def refuse_empty(record: Recorded) -> None:
    """Raise `InputError` for a record without rows."""
    if not record.rows:
        raise InputError("the record is empty: no training step was recorded, so there is nothing to diagnose")


def feed(who: dict[TakesRows, tuple[str, ...]], record: Recorded, before: int | None = None) -> None:
    """Read rows once in bounded memory, all or those before a step, and give each consumer its columns."""
    names = tuple(dict.fromkeys(name for wanted in who.values() for name in wanted))
    for block in record.blocks(names, before):
        for one, wanted in who.items():
            one.update({name: block[name] for name in ("step", *wanted) if name in block})
