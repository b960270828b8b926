"""Predicting the delayed level from branches of a learned net: the asker without a process, real trainings."""

from __future__ import annotations

import itertools
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradscope_cli.main import run as cli
from torch import nn

import gradscope
from gradscope import InputError
from gradscope.demo.data import digits
from gradscope.prediction.ask_tell import LONGEST, Plan
from gradscope.prediction.branches import EARLY, LATEST, ROWS, BranchProber
from gradscope.prediction.features import NAMES
from gradscope.prediction.level_reader import DELAYED, shipped
from gradscope.processes.instructions import Instructions, instructed
from gradscope.store.record import Record
from tests.helpers.paths import ROOT
from tests.helpers.probes import Knowing, a_probe
from tests.helpers.published import conforms

# -- the asker ------------------------------------------------------------------------------------


def drive(
    prober: BranchProber, active: int = 48, escapes: int = 10, more: int = ROWS, invariant: float = 0.0, **rows: Any
) -> list[Plan]:
    """Answers every plan with rows: the active phase begins after so many steps, and the training has so many more."""
    plans = []
    while not prober.done:
        plan = prober.ask()
        plans.append(plan)
        if plan.strength == 0:
            loss = np.where(np.arange(active) < escapes, 2.3, 0.5)
            prober.tell(plan, a_probe(0.0, active, **({"loss": loss} | rows)), invariant)
        else:
            prober.tell(plan, a_probe(plan.strength, min(plan.steps, active + more), **rows))
    return plans


def test_branches_are_one_run_whose_penalty_comes_on_in_its_active_phase() -> None:
    prober = BranchProber({"direct": Knowing(0.05, wrong=0.3)}, seed=7)
    free, *branches = drive(prober)
    assert (free.strength, free.until, free.steps, free.delay) == (0.0, "active", LONGEST, 0)
    assert [p.strength for p in branches] == pytest.approx([0.01, 0.03085, 0.0389], rel=0.01)
    assert {(p.steps, p.delay, p.until) for p in branches} == {(48 + ROWS, 48, None)}
    assert {p.seed for p in (free, *branches)} == {7}
    assert all((len(probe.step), probe.step[0]) == (ROWS, 0) for probe, _ in prober.told)
    found = prober.prediction()
    assert found.tolerance == pytest.approx(0.0421, rel=0.01)
    assert "after 48 steps" in found.reason


@pytest.mark.parametrize(("factor", "apart"), [(1.0, False), (1.0001, False), (1.1, True)])
def test_a_script_that_does_not_use_its_seed_is_told(factor: float, apart: bool) -> None:
    prober = BranchProber({"direct": Knowing(0.05, wrong=0.3)}, seed=7)
    loss = np.where(np.arange(48) < 10, 2.3, 0.5)
    prober.tell(prober.ask(), a_probe(0.0, 48, loss=loss, weight=np.ones((48, 3))))
    while not prober.done:
        plan = prober.ask()
        prober.tell(plan, a_probe(plan.strength, plan.steps, weight=np.full((plan.steps, 3), factor)))
    found = prober.prediction()
    assert found.determined
    assert ("let the script use the seed" in found.reason) is apart


@pytest.mark.parametrize(("escapes", "rows"), [(10, EARLY), (20, 32)])
def test_the_first_guess_is_made_of_the_rows_that_it_was_taught(escapes: int, rows: int) -> None:
    lengths: list[int] = []

    class Guessing(Knowing):
        def begin(self, free: Any) -> float:
            lengths.append(len(free.step))
            return -2.0

    drive(BranchProber({"direct": Guessing(0.05)}), active=64, escapes=escapes)
    assert lengths == [rows]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"escapes": 10**6}, "48 steps without a penalty do not bring the loss to 0.7"),
        ({"active": LATEST + 1}, f"begins after {LATEST + 1} steps, and the reader has learned from delays of at most"),
        ({"more": 60}, "the training ends 60 steps after its penalty comes on, 80 are needed"),
        ({"penalty": "l1", "beside": True}, "L2 under SGD and AdamW only, not for L1"),
        ({"optimizer": "Adam", "adaptive": True}, "not for Adam with a coupled decay"),
        ({"optimizer": "Lion"}, "not for the optimizer Lion"),
        ({"invariant": 0.9}, "90% of ‖w‖² is in weights whose scale"),
        ({"baseline": math.nan}, "the baseline loss is nan"),
    ],
)
def test_what_it_abstains_from(how: dict[str, Any], message: str) -> None:
    prober = BranchProber({"direct": Knowing(0.05)}, penalty=how.get("penalty", "l2"))
    drive(prober, **how)
    found = prober.prediction()
    assert (found.determined, found.tolerance, found.low, found.high) == (False, None, None, None)
    assert message in found.reason


def test_a_training_too_short_for_branches_makes_none() -> None:
    prober = BranchProber({"direct": Knowing(0.05)}, horizon=48 + ROWS - 1)
    assert len(drive(prober)) == 1
    assert "after 48 of 127 steps, and 80 are needed after it" in prober.prediction().reason


def test_a_rate_that_falls_under_a_branch_is_told() -> None:
    prober = BranchProber({"direct": Knowing(0.05)})
    plan = prober.ask()
    prober.tell(plan, a_probe(0.0, 48, loss=np.where(np.arange(48) < 10, 2.3, 0.5)))
    plan = prober.ask()
    prober.tell(plan, a_probe(plan.strength, plan.steps, rate=np.linspace(0.05, 0.01, plan.steps)))
    assert "within 80 steps, and delayed levels are read at constant ones only" in prober.prediction().reason


def test_the_shipped_reader() -> None:
    found = shipped(DELAYED)
    assert set(found) == {"direct"}
    reader = found["direct"]
    assert set(reader.errors) == {1, 2, 3}
    assert all(0.05 < error < 0.6 for error in reader.errors.values())
    assert reader.whole.feature.max() < len(NAMES)
    near, far = (a_probe(strength, ROWS) for strength in (0.05, 5.0))
    assert reader.distance(near) < reader.distance(far)
    assert reader is not shipped()["direct"]


# -- real trainings -------------------------------------------------------------------------------


def train(strength: float, seed: int, path: Path, steps: int = 400, own: bool = False, rate: float = 0.02) -> None:
    """A perceptron of eight layers on digits."""
    data = digits()
    torch.manual_seed(seed)
    sizes = [64, *[32] * 7, 10]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
        nn.init.kaiming_normal_(parts[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
    model = nn.Sequential(*parts[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    gradscope.regularize(optimizer, gradscope.L2(), gradscope.Delayed(strength, steps=20) if own else strength)
    with gradscope.record(model, optimizer, path, horizon=steps, preset="cheap") as run:
        for _ in range(steps):
            rows = torch.randint(0, len(data.y), (32,))
            loss = nn.functional.cross_entropy(model(data.x[rows].flatten(1)), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)


def test_digits(tmp_path: Path) -> None:
    """The first run ends where ``delayed:auto`` would begin, and each branch is that run with a penalty from there."""
    told: list[Any] = []
    found = gradscope.suggest_strength(train, delayed=True, out=tmp_path / "p", on_probe=told.append)
    assert found.determined, found.reason
    assert tuple(told) == found.probes
    free, *branches = found.probes
    with instructed(Instructions(on_failure="ignore", schedule="delayed:auto")):
        train(0.02, 0, tmp_path / "auto.h5")
    with Record(tmp_path / "auto.h5") as record:
        assert record.switched_on == free.steps == found.delay
        losses = record.column("loss", slice(free.steps))
    for branch in branches:
        assert (branch.delay, branch.steps, branch.seed) == (free.steps, free.steps + ROWS, free.seed)
        with Record(branch.path) as record:
            assert record.switched_on == free.steps
            assert record.column("loss", slice(free.steps)).tolist() == losses.tolist()  # one learned net
    assert found.steps_run == free.steps + len(branches) * (free.steps + ROWS)
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert found.low < found.tolerance < found.high
    assert math.log10(found.high / found.tolerance) == pytest.approx(shipped(DELAYED)["direct"].error(len(branches)))
    outcomes = {}
    for factor in (0.4, 2.5):
        path = tmp_path / f"{factor}.h5"
        with instructed(Instructions(on_failure="ignore", schedule="delayed:auto")):
            train(factor * found.tolerance, 5, path, steps=600)
        outcomes[factor] = gradscope.diagnose(path).failed
    assert outcomes == {0.4: False, 2.5: True}
    shown = found.as_dict()
    assert (shown["delayed"], shown["delay"]) == (True, found.delay)
    assert "delayed level" in found._repr_html_()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": 100}, "80 are needed after it"),
        ({"rate": 1e-6}, "do not bring the loss to 0.7"),
    ],
)
def test_trainings_without_a_delayed_level(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    found = gradscope.suggest_strength(partial(train, **more), delayed=True, out=tmp_path / "p")
    assert not found.determined
    assert message in found.reason
    assert (len(found.probes), found.delay, found.tolerance) == (1, None, None)


def test_a_delay_of_the_scripts_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="own penalty comes on later"):
        gradscope.suggest_strength(partial(train, own=True), delayed=True, out=tmp_path / "p")


def test_rows_are_counted_from_where_the_penalty_comes_on() -> None:
    probe = a_probe(0.05, 30)
    after = probe.after(12)
    assert after.step.tolist() == list(range(18))
    assert after.weight.tolist() == probe.weight[12:].tolist()


SCRIPT = """
import argparse, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.prediction.test_branches import train
given = argparse.ArgumentParser()
given.add_argument("--strength", type=float, default=0.0)
given.add_argument("--seed", type=int, default=0)
given.add_argument("--out", default="run.h5")
given = given.parse_args()
train(given.strength, given.seed, Path(given.out))
print("never reached by a probe")
"""


@pytest.mark.thorough
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the level and the search that goes on from it; the schedule reaches a script that knows of no delays."""
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    words = [sys.executable, str(path), "--strength", "{strength}", "--seed", "{seed}", "--out", "{out}"]
    options = ["--delayed", "--probes", "1", "--start", "0.07", "--out", str(tmp_path / "probes")]
    assert cli(["suggest", "--json", *options, "--", *words]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    found = conforms("suggest", json.loads(captured.out))
    assert (found["determined"], found["delayed"]) == (True, True)
    assert found["probes"][1]["steps"] == found["delay"] + ROWS
    assert " --delayed -- " in found["search"]
    assert "never reached" not in captured.err
    assert f"0.07 from step {found['delay']} on" in captured.err


def test_mistakes_of_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "p"), "--", sys.executable, "x.py"]
    for options, message in ((["--penalty", "l3"], "l2 and l1 only"), (["--start", "0"], "start is 0")):
        assert cli(["suggest", "--delayed", *options, *words]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert (len(captured.err.strip().splitlines()), captured.out) == (1, "")
