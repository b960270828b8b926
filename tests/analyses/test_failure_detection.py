"""What the benchmark's own studies rely on: runs that part from a step on, and scores of known chances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses.common.study import Options
from analyses.failure_detection.baselines import thermoclaw
from analyses.failure_detection.ceiling import EPOCHS, best, near_runs
from analyses.failure_detection.check import of_line
from analyses.failure_detection.coherence import measured
from analyses.failure_detection.siblings import beside
from analyses.failure_detection.training import losses_beyond


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


def test_a_trial_is_held_against_the_nearest_of_both_kinds() -> None:
    signal = np.array([[-4.0, -4.0], [0.0, 0.0], [-1.0, -3.0], [-2.0, np.nan]])
    found = beside(signal, np.array([0.2, 0.05, 0.1, 0.1]), np.array([True, False, False, True]))
    assert np.isnan(found[:2]).all()  # not both kinds yet
    np.testing.assert_allclose(found[2], [1.0, -1.0])
    nearest = -1.0 / (1 + np.exp(-np.log(2) / 0.15))  # of those that learned, by distance
    np.testing.assert_allclose(found[3, 0], -2.0 - (nearest - 4.0) / 2)
    assert np.isnan(found[3, 1])


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
