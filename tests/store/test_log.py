"""A log and its record belong together, and what stands in their places may be somebody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from gradscope import InputError
from gradscope.store import redo_log
from gradscope.store.reader import open_run
from gradscope.store.recovery import recover
from tests.torture import scenario

Pair = tuple[bytes, bytes]


def killed(path: Path, rows: int = 500, later: int = 0) -> Pair:
    """A record as a kill leaves it whose last flush is in the log alone, and its log. Nothing stays behind."""
    w = scenario.writer(path)
    w.append(scenario.block(0, 300))
    w.flush()
    before = path.read_bytes()
    w.append(scenario.block(300, rows - 300))
    w.flush()
    pair = before, redo_log.beside(path).read_bytes()
    w.close("finished")
    path.unlink()
    return pair


def laid(path: Path, pair: Pair) -> Path:
    path.write_bytes(pair[0])
    redo_log.beside(path).write_bytes(pair[1])
    return path


def rows(path: Path) -> int:
    with open_run(path) as dataset:
        count = dataset.sizes["step"]
        if count:
            np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, count))
    return int(count)


def finished(path: Path, count: int) -> Path:
    w = scenario.writer(path)
    w.append(scenario.block(0, count))
    w.close("finished")
    return path


def test_a_log_goes_with_its_record_wherever_both_are_copied(tmp_path: Path) -> None:
    pair = killed(tmp_path / "r.h5")
    (tmp_path / "there").mkdir()
    assert rows(laid(tmp_path / "there" / "other.h5", pair)) == 500


@pytest.mark.parametrize("others", [300, 500, 37])
def test_a_log_is_not_applied_to_another_record_in_its_place(tmp_path: Path, others: int) -> None:
    """Also not to one of the same model and the same number of rows, which differs in nothing but its life."""
    path = laid(tmp_path / "r.h5", killed(tmp_path / "r.h5"))
    other = finished(tmp_path / "other.h5", others).read_bytes()
    path.write_bytes(other)
    assert rows(path) == others
    assert recover(path, tmp_path / "saved.h5").rows == others
    w = scenario.writer(path, mode="append", resume_step=others)
    w.append(scenario.block(others, 10))
    w.close("finished")
    assert rows(path) == others + 10
    assert (tmp_path / "r.h5.log.of-another-record").exists()  # its record may come back


def test_a_log_is_not_applied_to_an_earlier_or_later_state_of_its_own_record(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    states, logs = [], []
    w = scenario.writer(path)
    for start in range(0, 500, 100):
        w.append(scenario.block(start, 100))
        w.flush()
        states.append(path.read_bytes())
        logs.append(redo_log.beside(path).read_bytes())
    w.close("finished")
    closed = path.read_bytes()
    for number, log in enumerate(logs):
        for other, state in enumerate([*states, closed]):
            laid(path, (state, log))
            expected = number if other == number - 1 else other
            assert rows(path) == 100 * min(expected + 1, 5)
    # … and the first, whose record was empty before.
    laid(path, (states[3], _first_log(tmp_path / "f.h5")))
    assert rows(path) == 400


def _first_log(path: Path) -> bytes:
    w = scenario.writer(path)
    log = redo_log.beside(path).read_bytes()
    w.close("finished")
    return log


def test_a_record_killed_in_its_first_flush_is_had_from_its_log(tmp_path: Path) -> None:
    log = _first_log(tmp_path / "f.h5")
    for content in (b"", bytes(5000)):
        assert rows(laid(tmp_path / "r.h5", (content, log))) == 0
    laid(tmp_path / "r.h5", (b"\1" * 5000, log))
    with pytest.raises(InputError, match="is not an HDF5 file"):
        rows(tmp_path / "r.h5")


def test_a_log_is_found_through_a_link_and_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = laid(tmp_path / "r.h5", killed(tmp_path / "r.h5"))
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.h5"
    link.symlink_to(path)
    assert rows(link) == 500
    assert rows(tmp_path / "links" / ".." / "r.h5") == 500
    monkeypatch.chdir(tmp_path)
    assert rows(Path("r.h5")) == 500
    w = scenario.writer(link, mode="append", resume_step=500)
    monkeypatch.chdir("/")
    w.append(scenario.block(500, 10))
    w.close("finished")
    assert rows(path) == 510
    assert link.is_symlink()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["links", "r.h5"]


@pytest.mark.parametrize("content", [b"epoch 1: loss 2.3\n", b"", b"GS"])
@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_a_users_own_file_of_that_name_is_never_touched(tmp_path: Path, content: bytes, mode: str) -> None:
    path = tmp_path / "r.h5"
    if mode != "create":
        finished(path, 100)
    own = tmp_path / "r.h5.log"
    own.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.h5\.log is no log of gradscope.* move it away"):
        scenario.writer(path, mode=mode, resume_step=100 if mode == "append" else None)
    assert own.read_bytes() == content
    if mode != "create":
        assert rows(path) == 100
        recover(path, tmp_path / "saved.h5")
    assert own.read_bytes() == content


def test_a_file_of_that_name_that_comes_later_stops_the_writing_only(tmp_path: Path) -> None:
    w = scenario.writer(tmp_path / "r.h5")
    log = redo_log.beside(tmp_path / "r.h5")
    w._file._forget_log()
    log.write_text("mine")
    w.append(scenario.block(0, 100))
    w.flush()
    assert "somebody else's" in str(w.problem)
    log.unlink()
    w.close("finished")
    assert rows(tmp_path / "r.h5") == 100


def test_a_users_own_lock_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "r.h5.lock"
    own.write_text("do not run this")
    with pytest.raises(InputError, match="is no lock of gradscope; move it away"):
        scenario.writer(tmp_path / "r.h5")
    assert own.read_text() == "do not run this"


def test_records_from_before_the_stamp_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr("gradscope.store.layout.STAMPED", np.dtype("f4"))
        before.setattr("gradscope.store.layout.stamp_place", lambda root: None)
        path = laid(tmp_path / "r.h5", killed(tmp_path / "r.h5"))
    assert redo_log.beside(path).read_bytes()[:8] == b"GSREDO1\n"
    assert rows(path) == 500
    w = scenario.writer(path, mode="append", resume_step=500)
    w.append(scenario.block(500, 10))
    w.close("finished")
    assert rows(path) == 510


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_files_get_the_users_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        w = scenario.writer(tmp_path / "r.h5")
        modes = {stat.S_IMODE(item.stat().st_mode) for item in tmp_path.iterdir()}
        assert len(list(tmp_path.iterdir())) == 3
        w.close("finished")
        recover(tmp_path / "r.h5", tmp_path / "saved.h5")
        modes |= {stat.S_IMODE(item.stat().st_mode) for item in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o666 & ~mask}
