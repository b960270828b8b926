"""Predicting the level from probes: the arithmetic against slow twins, the asker without a process, real trainings."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradscope_cli.main import run as cli

import gradscope
from gradscope import InputError
from gradscope.prediction.ask_tell import FREE, LATE, ROWS, Plan, Prober, rows_needed
from gradscope.prediction.features import FREE_NAMES, NAMES, features, free_features, smoothed
from gradscope.prediction.forest import Forest
from gradscope.prediction.from_record import ALONE, level_of
from gradscope.prediction.level_reader import shipped
from gradscope.prediction.rows import probe_of
from gradscope.processes.instructions import Instructions, instructed
from gradscope.restart.attempt import Attempt, read_attempt
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from tests.helpers.loops import a_deep_net as train
from tests.helpers.paths import ROOT
from tests.helpers.probes import Knowing, a_probe
from tests.helpers.published import conforms

# -- the arithmetic -------------------------------------------------------------------------------


def test_the_penaltys_own_time() -> None:
    assert a_probe(0.05).folding == pytest.approx(0.1 / (2 * 0.03 * 0.05))
    adamw = a_probe(10.0, adaptive=True, beside=True, momentum=0.0, optimizer="AdamW")
    assert (adamw.kind, adamw.folding) == ("direct", pytest.approx(1 / (2 * 0.03 * 10)))
    assert a_probe(0.0).folding == math.inf
    l1 = a_probe(0.01, penalty="l1", beside=True)
    mean = float(np.average(l1.weight_size[0], weights=l1.numel))
    assert (l1.kind, l1.folding) == ("l1", pytest.approx(mean / (0.03 * 0.01)))
    adam = a_probe(0.01, adaptive=True, momentum=0.0, optimizer="Adam")
    gradient = float(np.average(adam.gradient_size[0], weights=adam.numel))
    assert adam.kind == "coupled"
    assert adam.folding == pytest.approx(mean / 0.03 * (gradient + 0.02 * mean) / (0.02 * mean))
    assert a_probe(penalty="l1").kind == "the penalty l1 that acts through the gradient"
    assert a_probe(optimizer="Lion").kind == "the optimizer Lion"


def test_features_against_a_slow_twin() -> None:
    probe = a_probe()
    found = dict(zip(NAMES, features(probe), strict=True))
    tau, loss = probe.folding, probe.loss / probe.baseline
    means = [float(np.mean(loss[max(0, i - 4) : i + 1])) for i in range(40)]
    assert smoothed(probe.loss) / probe.baseline == pytest.approx(means)
    crossed = next(i for i in range(4, 40) if means[i] < 0.7)
    assert found["crossing_0.7"] == pytest.approx(math.log((crossed + 1 + 3) / tau))
    assert (found["never_0.7"], found["never_0.4"]) == (0, float(min(means[4:]) >= 0.4))
    weight = [math.sqrt(sum(w**2 for w in row)) for row in probe.weight]
    slope = np.polyfit((np.arange(27, 40) + 1) / tau, np.log(weight[27:]), 1)[0]
    assert found["weight_slope"] == pytest.approx(slope)
    balance = [-sum(probe.dot[i]) / sum(2 * probe.strength * w**2 for w in probe.weight[i]) for i in range(40)]
    assert math.sinh(found["balance"]) == pytest.approx(float(np.median(balance[27:])))
    assert found["rise"] == pytest.approx(means[-1] - min(means[4:]))
    assert found["length"] == pytest.approx(math.log(40 / tau))


def test_features_do_not_hang_on_the_scale_of_the_loss() -> None:
    one = a_probe()
    other = replace(one, loss=5 * one.loss, baseline=5 * one.baseline)
    kept = [i for i, name in enumerate(NAMES) if name != "baseline"]
    assert features(one)[kept] == pytest.approx(features(other)[kept])


@pytest.mark.parametrize("broken", [0.0, 1e-38, 1e30, np.inf, np.nan])
def test_features_are_finite_whatever_a_probe_holds(broken: float) -> None:
    probe = a_probe()
    for name in ("gradient", "weight", "dot", "loss"):
        bad = replace(probe, **{name: np.full_like(getattr(probe, name), broken)})
        with np.errstate(all="ignore"):
            assert np.isfinite(features(bad)).all()
            assert np.isfinite(free_features(bad)).all()
    assert len(free_features(probe)) == len(FREE_NAMES)


def slowly(forest: Forest, x: np.ndarray) -> float:
    """One tree after the other, one node after the other."""
    answers = []
    for root in forest.root:
        node = int(root)
        while forest.feature[node] >= 0:
            above = np.float32(x[forest.feature[node]]) > forest.value[node]
            node += int(forest.right[node]) if above else 1
        answers.append(float(forest.value[node]))
    return sum(answers) / len(answers)


def test_forests_against_a_slow_twin() -> None:
    random = np.random.default_rng(3)
    for reader in shipped().values():
        for forest, count in ((reader.whole, len(NAMES)), (reader.near, len(NAMES)), (reader.first, len(FREE_NAMES))):
            for _ in range(5):
                x = random.normal(0, 3, count)
                assert forest.predict(x) == pytest.approx(slowly(forest, x), abs=1e-6)
            assert forest.feature.max() < count


def test_the_shipped_readers() -> None:
    found = shipped()
    assert set(found) == {"direct", "coupled", "l1"}
    for reader in found.values():
        assert set(reader.errors) == {1, 2, 3}
        assert all(0.01 < error < 2 for error in reader.errors.values())
        assert reader.error(9) == reader.errors[3]


# -- the asker ------------------------------------------------------------------------------------


def drive(prober: Prober, escapes: int = 10, invariant: float = 0.0, **more: Any) -> list[Plan]:
    """Answers every plan with rows; a run without a penalty escapes after so many steps."""
    plans = []
    while not prober.done:
        plan = prober.ask()
        plans.append(plan)
        if plan.strength == 0:
            ends = min(plan.steps, max(17, escapes + 6)) if escapes + 6 <= plan.steps else plan.steps
            loss = np.where(np.arange(ends) < escapes, 2.3, 0.5)
            prober.tell(plan, a_probe(0.0, ends, loss=loss, **more), invariant)
        else:
            prober.tell(plan, a_probe(plan.strength, plan.steps, **more), invariant)
    return plans


def test_probes_go_to_the_level() -> None:
    prober = Prober({"direct": Knowing(0.05, wrong=0.3)})
    plans = drive(prober)
    assert (plans[0].strength, plans[0].until, plans[0].steps) == (0.0, "escape", FREE)
    assert [p.strength for p in plans[1:]] == pytest.approx([0.01, 0.03085, 0.0389], rel=0.01)
    assert len({p.seed for p in plans}) == len(plans)
    assert all(15 <= p.steps <= ROWS and p.until is None for p in plans[1:])
    found = prober.prediction()
    assert found.determined
    assert found.tolerance == pytest.approx(0.0421, rel=0.01)
    assert found.low is not None and found.high is not None
    assert math.log10(found.high / found.low) == pytest.approx(0.2)


def test_a_second_probe_at_the_level_is_the_last() -> None:
    prober = Prober({"direct": Knowing(0.05)}, start=0.02)
    assert [p.strength for p in drive(prober)] == pytest.approx([0.0, 0.02, 0.05])


def test_no_probe_is_so_strong_that_its_step_overshoots() -> None:
    plans = drive(Prober({"direct": Knowing(100.0)}, most=4))
    assert max(p.strength for p in plans) <= 0.1 / (2 * 0.03 * 1.5) * 1.001


def test_a_far_level_is_not_told() -> None:
    prober = Prober({"direct": Knowing(1e-7, wrong=0.1)}, start=1.0)
    drive(prober)
    assert not prober.prediction().determined
    assert "far below the last probe" in prober.reason


def test_late_nets_get_long_probes() -> None:
    prober = Prober({"direct": Knowing(0.05)}, horizon=1000, start=0.02)
    plans = drive(prober, escapes=150)
    free = [p for p in plans if p.strength == 0]
    assert [p.steps for p in free] == [FREE, 1000, 304]
    assert free[0].seed == free[1].seed != free[2].seed
    assert all(p.steps == ROWS * math.ceil(2 * 152 / ROWS) for p in plans if p.strength)
    assert all(len(probe.step) == ROWS for probe, _ in prober.told)
    assert prober.late > LATE


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"escapes": 10**6}, "steps without a penalty do not bring the loss"),
        ({"invariant": 0.9}, "90% of ‖w‖² is in weights whose scale"),
        ({"baseline": math.nan}, "the baseline loss is nan"),
        ({"optimizer": "Lion"}, "no reader has been made for the optimizer Lion"),
        ({"penalty": "linf"}, "no reader has been made for the penalty linf"),
        ({"weight": np.full((17, 3), np.nan)}, "not finite"),
    ],
)
def test_what_it_abstains_from(how: dict[str, Any], message: str) -> None:
    prober = Prober({"direct": Knowing(0.05)}, horizon=400)
    drive(prober, **how)
    found = prober.prediction()
    assert not found.determined
    assert (found.tolerance, found.low, found.high) == (None, None, None)
    assert message in found.reason


def test_seeds_that_differ_and_short_trainings() -> None:
    prober = Prober({"direct": Knowing(0.05)}, horizon=400)
    for escapes in (150, 150, 10**6):
        plan = prober.ask()
        loss = np.where(np.arange(plan.steps) < escapes, 2.3, 0.5)
        prober.tell(plan, a_probe(0.0, plan.steps, loss=loss))
    assert "with another seed" in prober.reason
    prober = Prober({"direct": Knowing(0.05)})
    prober.tell(prober.ask(), a_probe(0.0, 9))
    assert "the probe has 9 rows" in prober.reason


# -- real trainings -------------------------------------------------------------------------------


def normalised(strength: float, seed: int, path: Path) -> None:
    train(strength, seed, path, norm=True)


def frozen(strength: float, seed: int, path: Path) -> None:
    train(strength, seed, path, rate=1e-6)


def sparse(strength: float, seed: int, path: Path) -> None:
    train(strength, seed, path, every=10)


def halving(strength: float, seed: int, path: Path) -> None:
    train(strength / 2, seed, path)


def one_seed(strength: float, seed: int, path: Path) -> None:
    train(strength, 0, path)


def crashing(strength: float, seed: int, path: Path) -> None:
    raise RuntimeError("out of memory")


def silent(strength: float, seed: int, path: Path) -> None:
    pass


def test_a_plain_function(tmp_path: Path) -> None:
    told: list[Any] = []
    found = gradscope.suggest_strength(train, out=tmp_path / "p", on_probe=told.append)
    assert found.determined, found.reason
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert found.low < found.tolerance < found.high
    assert 0.001 < found.tolerance < 1
    assert tuple(told) == found.probes
    assert found.horizon == 300
    assert found.steps_run == sum(p.steps for p in found.probes) <= FREE + 3 * ROWS
    assert (found.probes[0].strength, found.probes[0].distance) == (0.0, None)
    for probe in found.probes:
        with open_run(probe.path) as dataset:
            assert dataset.sizes["step"] == probe.steps  # every step, whatever the script says
            assert dataset.attrs["status"] == "finished"
    shown = found.as_dict()
    assert set(shown) >= {
        "determined", "penalty", "tolerance", "low", "high", "confidence", "weight_decay", "steps_run", "probes",
        "reason",
    }  # fmt: skip
    assert set(shown["probes"][0]) >= {"strength", "steps", "path"}
    assert shown["weight_decay"] == pytest.approx(2 * found.tolerance)
    assert "tolerance level" in found._repr_html_()


def test_rows_that_a_script_records_rarely_are_all_there(tmp_path: Path) -> None:
    found = gradscope.suggest_strength(sparse, probes=1, out=tmp_path / "p")
    assert found.determined, found.reason


def test_normalised_nets_have_no_level(tmp_path: Path) -> None:
    found = gradscope.suggest_strength(normalised, out=tmp_path / "p")
    assert not found.determined
    assert "a normalisation" in found.reason
    assert found.as_dict()["tolerance"] is None
    assert len(found.probes) == 1


def test_a_training_that_does_not_learn_has_none_to_be_told(tmp_path: Path) -> None:
    found = gradscope.suggest_strength(frozen, out=tmp_path / "p")
    assert not found.determined
    assert "300 steps without a penalty do not bring the loss" in found.reason


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (halving, "half of it"), (crashing, "RuntimeError: out of memory"), (silent, "without the record"),
        (one_seed, "start from identical weights"),
    ],
)  # fmt: skip
def test_mistakes_of_the_function(tmp_path: Path, function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradscope.suggest_strength(function, out=tmp_path / "p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"penalty": "l3"}, "predicted for l2 and l1 only"), ({"start": 0.0}, "start is 0"),
        ({"start": -1.0}, "start is -1"), ({"probes": 0}, "probes is 0"), ({"seed": -1}, "seed is -1"),
    ],
)  # fmt: skip
def test_mistakes_of_the_call(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradscope.suggest_strength(train, out=tmp_path / "p", **given)
    assert not (tmp_path / "p").exists()


def test_a_probe_ends_at_its_rows(tmp_path: Path) -> None:
    with instructed(Instructions(probe_steps=23)), pytest.raises(SystemExit):
        train(0.01, 0, tmp_path / "a.h5")
    with Record(tmp_path / "a.h5") as record:
        probe = probe_of(record)
        assert len(probe.step) == 23
        assert probe.weight.shape == (23, 7)  # matrices alone
        assert (probe.strength, probe.kind, probe.momentum) == (pytest.approx(0.01), "direct", 0.9)
    with instructed(Instructions(probe_steps=200, probe_until="escape")), pytest.raises(SystemExit):
        train(0.0, 0, tmp_path / "b.h5")
    with open_run(tmp_path / "b.h5") as dataset:
        count = dataset.sizes["step"]
        assert count % 16 == 1
        assert float(dataset["loss"][-6:-1].mean()) < 0.7 * dataset.attrs["baseline_loss"]
        assert float(dataset["loss"][-22:-17].mean()) >= 0.7 * dataset.attrs["baseline_loss"] or count == 17


def test_a_failed_run_tells_its_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its first rows alone, as well as a probe of the same strength and seed."""
    gradscope_says = gradscope.suggest_strength(train, out=tmp_path / "p")
    assert gradscope_says.tolerance is not None
    path = tmp_path / "a.h5"
    with instructed(Instructions(on_failure="ignore")):
        train(3 * gradscope_says.tolerance, 3, path, preset="standard")
    with Record(path) as record:
        found = level_of(record)
        assert found.determined, found.reason
        probe = probe_of(record, rows=ROWS)
        distance = shipped()["direct"].distance(probe.first(rows_needed(probe)))
        monkeypatch.setattr("gradscope.prediction.from_record.FAR", distance - 0.1)
        assert "times below its strength" in level_of(record).reason
    assert found.tolerance is not None
    assert found.tolerance == pytest.approx(3 * gradscope_says.tolerance / 10**distance)
    assert (found.low, found.high) == pytest.approx((found.tolerance / 10**ALONE, found.tolerance * 10**ALONE))
    assert found.low < gradscope_says.tolerance < found.high  # type: ignore[operator]
    monkeypatch.undo()
    attempt = read_attempt(Instructions(out=str(path)), "itself")
    assert attempt.diagnosis.failed
    assert f"its tolerance level is about weight_decay {2 * found.tolerance:.4g}" in attempt.level
    assert Attempt.from_dict(attempt.as_dict()) == attempt


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(train, 0.0, 0), "no penalty of one strength acted from the start"),
        (partial(train, 0.05, 0, every=10), "does not begin with"),
        (partial(train, 0.05, 0, norm=True, preset="standard"), "whose scale the loss does not depend on"),
    ],
)
def test_what_a_run_does_not_tell(tmp_path: Path, make: Any, message: str) -> None:
    with instructed(Instructions(on_failure="ignore")):
        make(tmp_path / "a.h5")
    with Record(tmp_path / "a.h5") as record:
        found = level_of(record)
    assert not found.determined
    assert found.tolerance is None
    assert message in found.reason


SCRIPT = """
import argparse, sys
from pathlib import Path
from tests.helpers.loops import a_deep_net as train
given = argparse.ArgumentParser()
given.add_argument("--weight-decay", type=float, default=0.0)
given.add_argument("--seed", type=int, default=0)
given.add_argument("--out", default="run.h5")
given = given.parse_args()
train(given.weight_decay / 2, given.seed, Path(given.out))
print("never reached by a probe")
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "train.py"
    path.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{SCRIPT}")
    words = [sys.executable, str(path), "--weight-decay", "{weight_decay}", "--seed", "{seed}", "--out", "{out}"]
    return ["--out", str(tmp_path / "probes"), "--", *words]


@pytest.mark.thorough
def test_the_command(script: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["suggest", "--json", "--start", "0.02", "--probes", "1", *script]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    found = conforms("suggest", json.loads(captured.out))
    assert found["determined"] is True
    assert found["probes"][1]["strength"] == 0.02
    assert found["confidence"] == 0.95
    assert found["weight_decay"] == pytest.approx(2 * found["tolerance"])
    assert found["search"].startswith("gradscope search --low ")
    assert "never reached" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--penalty", "l3", "--", sys.executable, "x.py"], "l2 and l1 only"),
        (["--probes", "0", "--", sys.executable, "x.py"], "probes is 0"),
        (["--", sys.executable, "x.py", "{lr}"], "the command holds {lr}"),
        (["--", sys.executable, "-c", "raise SystemExit('no data')"], "no data"),
        (["--", sys.executable, "-c", "pass"], "without the record"),
        ([], "the training command goes after --"),
    ],
)
def test_mistakes_of_the_command(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(["suggest", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_reading_needs_no_torch_and_no_scikit_learn() -> None:
    code = "import gradscope.prediction.suggest as s, sys; s.shipped(); print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
