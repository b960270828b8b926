"""What the benchmark's own studies rely on: runs that part from a step on, and scores of known chances."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.common.study import Options
from analyses.failure_detection.baselines import thermoclaw
from analyses.failure_detection.ceiling import EPOCHS, best, near_runs
from analyses.failure_detection.check import of_line
from analyses.failure_detection.coherence import measured
from analyses.failure_detection.records import RESULTS
from analyses.failure_detection.siblings import judged, moved, table
from analyses.failure_detection.training import losses_beyond
from gradscope.diagnosis.siblings import SiblingModel

README = RESULTS.parent / "README.md"


@pytest.fixture(scope="module")
def row() -> dict[str, str]:
    return next(row for row in near_runs() if row["family"] == "mlp-shallow")


def test_a_copy_is_the_run_until_it_sees_other_data(row: dict[str, str]) -> None:
    at = EPOCHS * int(row["batches"])
    own = losses_beyond(of_line(row), at + 6)
    copies = [losses_beyond(of_line(row), at + 6, reshuffled=(at, seed)) for seed in (0, 0, 1)]
    for copy in copies:
        np.testing.assert_array_equal(copy[:at], own[:at])
        assert (copy[at:] != own[at:]).all()
    np.testing.assert_array_equal(copies[0], copies[1])
    assert (copies[0][at:] != copies[2][at:]).all()


def test_the_best_there_could_be() -> None:
    assert best(np.repeat([0.0, 1.0], 20)) == 1.0
    assert best(np.full(200, 0.5)) == pytest.approx(0.5, abs=0.01)
    assert 0.6 < best(np.repeat([0.3, 0.7], 100)) < 0.8


def test_coherence_of_one_run(row: dict[str, str], tmp_path: Path) -> None:
    asked = Options("", "", 1, "cpu", tmp_path, 1, "local", (), tmp_path / "coherence.csv")
    found = measured({"run": row["run"]}, asked)
    assert len(found) == 16
    for name, value in found.items():
        assert (-1 <= value <= 1) if name.startswith("cosine") else value <= 1e-9, name


def test_an_earlier_trial_is_seen_as_far_as_a_search_lets_it_run() -> None:
    """The second was called at row 24, the first was seen to hold from row 32: their last signals stand."""
    one = pd.DataFrame({"n": [16, 24, 32, 40], "own": 0.5, "open": True, "settled": False, "live": "healthy"})
    learned = one.assign(run="a", strength=0.05, failed=False, decided_step=np.nan, level=[0.0, 1.0, 2.0, 3.0])
    learned["settled"] = [False, False, True, True]
    failed = one.assign(run="b", strength=0.2, failed=True, decided_step=23, live="collapsed", level=[0, -1, -5, -9.0])
    new = one.assign(run="c", strength=0.1, failed=True, decided_step=np.nan, level=[-4.0, -4, -4, -4])
    asked = {"shuffled": False, "alone": False}
    first, second, third = judged([learned, failed, new], SiblingModel(0, 1, -1, 0.95), asked)
    assert first["beside"].isna().all() and second["beside"].isna().all()  # not both kinds yet
    np.testing.assert_allclose(third["beside"], [-4.0, -4.0, -4.5, -4.5])
    assert third["call"].tolist() == [False, True, True, True]
    alone = judged([learned, failed, new], None, {**asked, "alone": True})
    np.testing.assert_allclose(alone[1]["beside"], [0, -2, -7, -11])


def test_the_rule_of_thermoclaw() -> None:
    """Weights that shrink by a fortieth, or gradients that fade beside them; neither where nothing is penalised."""
    fall = np.exp(-np.arange(100) / 50)[:, None] * np.ones(3)
    flat = np.ones((100, 3))
    held = np.array([True, True, False])
    assert thermoclaw({"loss_gradient_norm": fall, "weight_norm": flat, "penalised": held}, 0) == 45
    assert thermoclaw({"loss_gradient_norm": flat, "weight_norm": fall, "penalised": held}, 0) == 19
    assert thermoclaw({"loss_gradient_norm": flat, "weight_norm": flat, "penalised": held}, 0) is None
    assert thermoclaw({"loss_gradient_norm": flat, "weight_norm": fall, "penalised": ~held}, 0) is None
    assert thermoclaw({"loss_gradient_norm": flat, "weight_norm": fall, "penalised": held & False}, 0) is None


def test_signals_and_labels_are_of_runs_that_came_to_the_same() -> None:
    looks = table()
    assert (looks["failed"] == looks["again"]).all()
    told = re.search(r"\*\*(\d+) runs came to another label this time.*?(\d+) are left", README.read_text("utf-8"))
    assert told is not None
    assert (int(told[1]), int(told[2])) == (len(moved()), looks["run"].nunique())


def test_no_collapse_of_the_benchmark_was_called_against_its_signals() -> None:
    """Decision 143: the rule on the weights waits below a probability of .1, and that changes none of these calls."""
    looks = pd.read_csv(RESULTS / "probabilities.csv.gz", comment="#").set_index(["run", "n"])["probability"]
    verdicts = pd.read_csv(RESULTS / "verdicts.csv", comment="#")
    called = verdicts[(verdicts["live"] == "collapsed") & verdicts["decided_step"].notna()]
    at = [looks[run, int(step) + 1] for run, step in zip(called["run"], called["decided_step"], strict=True)]
    assert (len(verdicts), len(at)) == (801, 223)
    assert min(at) == pytest.approx(0.18, abs=0.005)


def test_a_run_that_learns_may_lie_above_its_level() -> None:
    runs = pd.read_csv(RESULTS / "runs.csv", comment="#")
    learning = runs[~runs["failed"] & (runs["strength"] > 0) & runs["tolerance"].notna()]
    assert (len(learning), int((learning["strength"] > learning["tolerance"]).sum())) == (284, 53)
