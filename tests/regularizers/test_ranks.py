"""Penalties in a distributed run: two real processes, which see different data, stay one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from tests.scripts.ranks import rank


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo backend")
def test_ranks_stay_identical_whatever_each_of_them_sees(tmp_path: Path) -> None:
    multiprocessing.start_processes(rank, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in (0, 1))
    assert first["strengths"] == second["strengths"]
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    controller, automatic = ([row[i] for row in first["strengths"]] for i in (0, 1))
    assert len(set(controller)) > 1
    # Rank 1 alone saw the active phase, at step 20; both begin at the next agreement, step 32.
    assert next(step for step, value in enumerate(automatic) if value > 0) in (31, 32)
