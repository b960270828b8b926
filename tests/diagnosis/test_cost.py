"""What a penalty costs or gains beside a run without one: said, and never a failure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from gradscope_cli.main import run
from torch import nn

import gradscope
from gradscope.diagnosis.cost import Finished, costs
from gradscope.quantities import Strength
from tests.helpers.loops import batches, mlp

CHANCE = "one pair of runs does not tell this from chance; gradscope tune compares in pairs of seeds"


def test_the_last_value_of_each_metric_that_both_hold() -> None:
    bare = Finished("bare.h5", Strength(0.0, "l2"), False, {"epoch": [0, 1], "accuracy": [0.1, 0.9], "f1": [0.4, 0.5]})
    mild = Finished("mild.h5", Strength(0.01, "l2"), False, {"epoch": [0], "accuracy": [0.7, float("nan")]})
    dead = Finished("dead.h5", Strength(1.0, "l2"), True, {"accuracy": [0.1]})
    assert costs([bare, mild, dead]) == [
        "accuracy ends at 0.7 in mild.h5, with weight_decay 0.02 (λ 0.01), and at 0.9 without a penalty, in "
        "bare.h5: -0.2",
        CHANCE,
    ]
    assert costs([mild, dead]) == costs([bare, bare, mild]) == costs([bare]) == costs([bare, dead]) == []


def recorded(path: Path, decay: float, accuracy: float) -> Path:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    with gradscope.record(model, optimizer, path, on_failure="ignore") as recording:
        for x, y in batches(3):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recording.log(loss=loss)
        recording.epoch(0, accuracy=accuracy)
    return path


def test_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare, mild = recorded(tmp_path / "bare.h5", 0.0, 0.5), recorded(tmp_path / "mild.h5", 0.02, 0.75)
    for command in ("diagnose", "compare"):
        assert run([command, str(bare), str(mild), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["costs"]
        assert len(found) == 2
        assert "with weight_decay 0.02 (λ 0.01), and at 0.5 without a penalty" in found[0]
        assert found[0].endswith(": +0.25")
        assert run([command, str(bare), str(mild)]) == 0
        assert CHANCE in capsys.readouterr().out
    assert run(["diagnose", str(mild), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["costs"] == []
    missing = ["run", "--beside", str(tmp_path / "none.h5"), "--", sys.executable, "-c", "pass"]
    assert run(missing) == 2
    assert "there is no file" in capsys.readouterr().err
