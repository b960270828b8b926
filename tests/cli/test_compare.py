"""Records side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gradscope_cli.compare import _table
from gradscope_cli.main import run

KEYS = {"path", "label", "verdict", "sentence", "failed", "numbers"}


def test_compare(collapsed_run: Path, healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "both.png"
    assert run(["compare", str(collapsed_run), str(healthy_run), "--json", "-o", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    failed, healthy = found["runs"]
    assert set(failed) == KEYS
    assert [side["verdict"] for side in found["runs"]] == ["collapsed", "healthy"]
    assert found["differing"] == {"groups.0.weight_decay": ["0.08", "0.004"]}
    assert found["alike"] > 40
    assert failed["numbers"]["strength"] == pytest.approx(0.04)
    assert failed["numbers"]["weight_decay"] == pytest.approx(0.08)
    assert failed["numbers"]["accuracy, last"] < 0.2 < 0.8 < healthy["numbers"]["accuracy, last"]
    assert failed["numbers"]["mean |w| at the end"] < 1e-3 < healthy["numbers"]["mean |w| at the end"]
    assert set(found["curves"]) == {"loss", "gradient-closeup", "proportion", "weight"}
    assert [c["label"] for c in found["curves"]["loss"]["curves"]] == ["weight_decay 0.08", "weight_decay 0.004"]
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_compare_reads_well(collapsed_run: Path, healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(collapsed_run), str(healthy_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"A  {collapsed_run}: collapsed from step 0")
    (differing,) = [line.split() for line in lines if "weight_decay " in line and "groups" in line]
    assert differing == ["groups.0.weight_decay", "0.08", "0.004"]
    at = lines.index("Weights, over optimizer steps:")
    assert "█▁" not in lines[at + 1]  # a slow fall on the scale of both
    assert lines[at + 1].split()[1].endswith("▁")
    assert lines[at + 2].split()[1] == "█" * len(lines[at + 2].split()[1])


def test_many_records_are_rows(capsys: pytest.CaptureFixture[str]) -> None:
    _table(list("ABCDE"), {"lr": ["1", "2", "3", "4", "5"], "seed": ["0"] * 5})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["lr", "seed"]
    assert lines[3] == ["C", "3", "0"]


def test_mistakes(healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert run(["compare", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    assert "1 record was given; compare takes at least two" in refused(str(healthy_run))
    assert "there is no file" in refused(str(healthy_run), str(tmp_path / "none.h5"))
    assert "ends in .png" in refused(str(healthy_run), str(healthy_run), "-o", "x.gif")
