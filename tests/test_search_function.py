"""`search_tolerance` with a plain function, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gradscope
from gradscope import InputError
from tests.loops import batches


def train(strength: float, seed: int, path: Path, steps: int = 400) -> None:
    """A deep narrow net on a task it can learn: the label is in the first feature."""
    torch.manual_seed(seed)
    layers = [m for _ in range(3) for m in (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=steps) as run:
        for x, _ in batches(steps, 32):
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)


def halving(strength: float, seed: int, path: Path) -> None:
    train(strength / 2, seed, path)


def failing(strength: float, seed: int, path: Path) -> None:
    raise RuntimeError("out of memory")


def silent(strength: float, seed: int, path: Path) -> None:
    pass


def test_a_plain_function(tmp_path: Path) -> None:
    told = []
    found = gradscope.search_tolerance(train, 1e-4, 1.0, out=tmp_path / "s", max_trials=8, on_trial=told.append)
    assert [now.trials for now in told] == list(range(1, 9))
    assert told[-1].steps == found.steps_run
    assert all(sum(now.density) == pytest.approx(1) for now in told)
    assert all(now.rest <= 8 - now.trials for now in told)
    assert len(told) == len(found.trials) == 8
    assert found.determined
    assert found.low is not None and found.tolerance is not None and found.high is not None
    assert found.low < found.tolerance < found.high
    assert {t.verdict for t in found.trials} >= {"collapsed", "healthy"}
    assert all(t.early_failed is None for t in found.trials if not t.audit)
    assert any(t.stopped_early for t in found.trials)
    assert found.as_dict()["weight_decay"] == pytest.approx(2 * found.tolerance)


def test_several_processes(tmp_path: Path) -> None:
    found = gradscope.search_tolerance(train, 0.05, 1.0, workers=2, out=tmp_path / "s", max_trials=2)
    assert [t.verdict for t in found.trials] == ["collapsed"] * 2
    assert not found.determined


def test_the_delayed_level_too(tmp_path: Path) -> None:
    found = gradscope.search_tolerance(train, 1e-3, 0.3, delayed=True, out=tmp_path / "s", max_trials=5)
    assert found.delayed is not None
    assert set(found.as_dict()) >= {"delayed_tolerance", "delayed_low", "delayed_high", "delayed_reason"}
    assert found.delayed_trials
    assert sorted(p.name for p in (tmp_path / "s").glob("delayed-*.h5"))


@pytest.mark.parametrize(
    ("function", "message"),
    [(halving, "half of it"), (failing, "RuntimeError: out of memory"), (silent, "without the record")],
)
def test_mistakes_of_the_function(tmp_path: Path, function, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradscope.search_tolerance(function, 0.01, 1.0, out=tmp_path / "s", max_trials=2)
    with pytest.raises(InputError, match="expected low < high"):
        gradscope.search_tolerance(function, 1.0, 0.01, out=tmp_path / "t")
    assert not (tmp_path / "t").exists()
