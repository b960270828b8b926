"""`gradscope inspect`: what a record holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gradscope_cli.inspect import _table, _words
from gradscope_cli.main import run

from gradscope.store import record
from gradscope.store.reader import open_run


def test_inspect_as_json(
    healthy_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "BLOCK_CELLS", 1 << 10)  # the ranges are those of several blocks
    assert run(["inspect", str(healthy_run), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    with open_run(healthy_run) as dataset:
        loss, weight = dataset["loss"].values, dataset["weight_mean_abs"].values
    assert seen["ranges"]["loss"] == [float(loss.min()), float(loss.max())]
    assert seen["samples"]["loss"] == 1150
    assert seen["samples"]["activation_std"] == 115  # every tenth row
    assert seen["epochs"] == 50
    assert seen["parameters"][0]["weight_mean_abs"] == [float(weight[0, 0]), float(weight[-1, 0])]
    assert seen["metrics"]["epoch"] == list(range(50))
    assert seen["metrics"]["accuracy"][-1] > 0.8
    assert "strength" in {event["kind"] for event in seen["events"]}
    assert seen["ranges"]["skipped"] == [0, 0]


def test_inspect_reads_well(healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(healthy_run)]) == 0
    text = capsys.readouterr().out
    assert "finished, 1150 rows, steps 0 to 1149, 50 epochs" in text
    assert "weight_decay 0.004 (λ 0.002)" in text
    assert "12 parameters" in text
    assert "115 of 1150 rows" in text
    assert "epochs: accuracy from" in text
    assert "not_recorded: none" in text


def test_long_tables_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    _table([["a", str(k)] for k in range(30)], 24)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 25
    assert lines[-1].strip() == "… and 6 more (--all shows them)"


def test_values_of_capture_as_words() -> None:
    assert _words({"a": [1, {"b": []}], "c": {}}) == "a 1, b none; c none"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tmp_path / "none.h5")]) == 2
    assert "there is no file" in capsys.readouterr().err
