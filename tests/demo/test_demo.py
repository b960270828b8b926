"""The main job, end to end, as a user meets it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from gradscope_cli.main import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, str]:
    out = tmp_path_factory.mktemp("demo") / "a folder"
    words = [sys.executable, "-m", "gradscope_cli.main", "demo", "--json", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), out, done.stderr


@pytest.mark.thorough
def test_the_main_job(demo: tuple[dict, Path, str]) -> None:
    found, _, _ = demo
    first = found["too_strong"]
    assert first["accuracy"] < 0.2
    assert first["diagnosis"]["verdict"] == "collapsed"
    assert first["diagnosis"]["decided_step"] < 0.1 * first["steps"]
    assert len(found["restarts"]) == 3
    for restart in found["restarts"]:
        failed, delayed = restart["attempts"]
        assert restart["learned"]
        assert failed["accuracy"] < 0.2
        assert failed["strength"] == delayed["strength"] == found["strength"]
        assert delayed["schedule"] == "delayed:auto"
        assert delayed["accuracy"] > 0.55
    assert statistics.median(r["attempts"][1]["accuracy"] for r in found["restarts"]) > 0.7
    level = found["tolerance"]
    assert level["determined"]
    assert level["low"] < level["tolerance"] < level["high"] < found["strength"]


def test_what_it_leaves_behind(demo: tuple[dict, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    found, out, said = demo
    assert str(out) in said.replace("\n", "")
    assert len(found["figures"]) == 3
    for figure in found["figures"]:
        assert Path(figure).read_bytes().startswith(b"\x89PNG")
    page = Path(found["report"]).read_text()
    assert "too-strong.h5 does not learn" in page
    assert "delayed:auto" in page
    with xr.open_dataset(out / "too-strong.h5") as dataset:
        assert dataset.sizes["step"] == 1150
    lines = [json.loads(line) for line in (out / "search" / "search.jsonl").read_text().splitlines()]
    early = {line["trial"]["verdict"] for line in lines if "trial" in line and line["trial"]["stopped_early"]}
    assert early == {"collapsed", "healthy"}
    assert run(["demo", "--out", str(out)]) == 2
    assert "already holds a demo" in capsys.readouterr().err
