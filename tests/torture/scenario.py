"""A short life of a record without torch, and the check of what is left of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.recovery import recover
from gradscope.store.storage import Storage
from gradscope.store.writer import Writer

ATTRIBUTES = {
    "gradscope_version": "0", "penalty": "l2", "baseline_loss": 1.0, "horizon": -1,
    "config": {"groups": [{}]}, "capture": {},
}  # fmt: skip
NAMES = ("weight_norm", "weight_mean_abs", "proportion")
PARAMETERS = 6


def writer(path: Path, **options: object) -> Writer:
    count = range(PARAMETERS)
    static = {
        "numel": np.array([4 for _ in count]),
        "penalised": np.array([True for _ in count]),
        "group": np.array([0 for _ in count]),
    }
    options = {"storage": Storage(flush_rows=1 << 20, flush_seconds=1e9)} | options
    names = [f"p{i}" for i in count]
    return Writer(path, parameters=names, modules=[], groups=1, static=static, attributes=ATTRIBUTES, **options)  # type: ignore[arg-type]


def values(start: int, rows: int) -> np.ndarray:
    """What the rows hold: something of step and parameter that compresses neither well nor badly."""
    steps = np.arange(start, start + rows)
    return np.sin(steps[:, None] * 0.37 + np.arange(PARAMETERS)).astype(np.float32)


def block(start: int, rows: int) -> dict[str, np.ndarray]:
    return {"step": np.arange(start, start + rows), "loss": values(start, rows)[:, 0]} | {
        name: values(start, rows) for name in NAMES
    }


#: Rows a flush: within a chunk, over the end of one (1,024), and to its end exactly.
FLUSHES = (300, 500, 400, 848, 10)


def live(path: Path, published: Callable[[int], None], flushes: tuple[int, ...] = FLUSHES, close: bool = True) -> None:
    """Create, flush, log new names, mark epochs, close; ``published`` is told the rows that must survive."""
    w = writer(path)
    published(0)
    done = 0
    for number, rows in enumerate(flushes):
        w.append(block(done, rows) | ({"late": values(done, rows)[:, 1]} if number > 1 else {}))
        w.event(done, "note", f"flush {number}")
        w.epoch(number, {"accuracy": number / 10})
        w.flush()
        assert w.problem is None, w.problem
        done += rows
        published(done)
    if close:
        w.close("finished")


def verify(path: Path, published: int, thorough: bool = True) -> int:
    """Everything published is there and right; ``thorough``: and it can be recovered and gone on with. The rows."""
    with open_run(path) as dataset:
        rows = dataset.sizes["step"]
        assert rows >= published, f"{rows} rows of {published} published ones"
        np.testing.assert_array_equal(dataset["step"].values, np.arange(rows))
        for name in NAMES:
            if rows:
                np.testing.assert_array_equal(dataset[name].values, values(0, rows))
        marks = list(np.cumsum(FLUSHES))
    assert len(Record(path).events) == len(Record(path).metrics["epoch"])
    assert not rows or rows in marks, "half of a flush is to be seen"
    if not thorough:
        return int(rows)
    saved = path.with_name("saved.h5")
    saved.unlink(missing_ok=True)
    before = path.read_bytes()
    report = recover(path, saved)
    assert path.read_bytes() == before, "recover has changed the original"
    assert report.complete, report.as_dict()
    assert report.rows == rows
    w = writer(path, mode="append", resume_step=rows)
    w.append(block(rows, 7))
    w.close("finished")
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        assert dataset.sizes["step"] == rows + 7
        np.testing.assert_array_equal(dataset[NAMES[0]].values, values(0, rows + 7))
    return int(rows)
