"""What the benchmark's own studies rely on: runs that part from a step on, and scores of known chances."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.failure_detection.ceiling import EPOCHS, best, near_runs
from analyses.failure_detection.check import of_line
from analyses.failure_detection.coherence import measured
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


def test_coherence_of_one_run(row: dict[str, str]) -> None:
    found = measured(row)
    assert len(found) == 16
    for name, value in found.items():
        assert (-1 <= value <= 1) if name.startswith("cosine") else value <= 1e-9, name
