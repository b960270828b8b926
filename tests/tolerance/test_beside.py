"""`gradscope tolerance`: a record that ended early with nothing decided is judged beside the others."""

from __future__ import annotations

from pathlib import Path

import torch

import gradscope
from gradscope.tolerance.from_records import tolerance_of_runs
from tests.helpers.loops import narrow, train_on_signs


def train(strength: float, seed: int, path: Path, steps: int = 240) -> Path:
    """A deep narrow net under AdamW, planned for 240 steps."""
    torch.manual_seed(seed)
    model = narrow()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=240, on_failure="ignore") as run:
        train_on_signs(model, optimizer, steps, run)
    return path


def test_a_record_that_ended_early_is_judged_beside_the_others(tmp_path: Path) -> None:
    learned, failed = train(0.05, 1, tmp_path / "learned.h5"), train(3.0, 3, tmp_path / "failed.h5")
    short = train(2.2, 2, tmp_path / "short.h5", steps=64)
    assert gradscope.diagnose(short).verdict == "undecided"
    alone = tolerance_of_runs([learned, short])
    beside = tolerance_of_runs([learned, failed, short])
    assert [run["verdict"] for run in alone["runs"]] == ["healthy", "undecided"]  # both kinds have to be there
    assert [run["verdict"] for run in beside["runs"]] == ["healthy", "collapsed", "collapsed"]
    assert (alone["trials"], beside["trials"]) == (1, 3)
