"""Faults that are really provoked, in small numbers; `make torture` does the same in large ones."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradscope.store import redo_log
from tests.torture import power, scenario
from tests.torture.system_calls import clean, half_applied, killed_at


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the faults do not depend on the disk, the time they take does."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
def test_a_kill_at_any_system_call_of_a_flush(memory: Path, torn: bool) -> None:
    """Exhaustive over the flush that ends a chunk: the one that frees, compresses and writes anew."""
    path = memory / "r.h5"
    number = 0
    while True:
        clean(path)
        rows, died = killed_at(number, torn, lambda p: scenario.live(path, p, scenario.FLUSHES[:3]), after=800)
        if not died:
            break
        scenario.verify(path, rows)
        number += 1
    assert number > 15


def test_a_kill_at_any_system_call_of_a_recovery(memory: Path) -> None:
    path = memory / "r.h5"
    rows = half_applied(path, lambda p, published: scenario.live(p, published, close=False))
    crashed = {left.name: left.read_bytes() for left in memory.iterdir()}
    number = 0
    while True:
        clean(path)
        for name, content in crashed.items():
            (memory / name).write_bytes(content)
        _, died = killed_at(number, True, lambda published: redo_log.redo(path) and None)
        scenario.verify(path, rows)
        if not died:
            break
        number += 1
    assert number > 3


def test_power_loss(memory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        trace = power.Trace()
        trace.watch(patch)
        scenario.live(memory / "r.h5", trace.published)
    source = random.Random(0)
    for number in range(20):
        folder = memory / str(number)
        folder.mkdir()
        path, rows = power.crash(trace, memory / "r.h5", folder, source)
        scenario.verify(path, rows)
