"""Fixtures: records of real training runs, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gradscope.demo import training

if not torch.cuda.is_available():  # no card: Triton's kernels run on the CPU; read when triton is first imported
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No instruction of an outer gradscope reaches a test; one thread, because the workers share two cores."""
    for name in list(os.environ):
        if name.startswith("GRADSCOPE_"):
            monkeypatch.delenv(name)
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def collapsed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network at four times the strength it tolerates, trained to the horizon."""
    path = tmp_path_factory.mktemp("runs") / "collapsed.h5"
    training.train(0.08, 0, path)
    return path


@pytest.fixture(scope="session")
def healthy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network at a strength it tolerates."""
    path = tmp_path_factory.mktemp("runs") / "healthy.h5"
    training.train(0.004, 0, path)
    return path
