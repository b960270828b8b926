"""A recording that reads the tolerance level off its first rows: what it says, and when it says nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradscope
from gradscope.prediction.from_record import ALONE, BEYOND, FAR, FEW_ACTED, level_of
from gradscope.recording.notes import FindingWarning
from gradscope.store.record import Record
from tests.helpers.loops import a_deep_net, batches, mlp


def recorded(path: Path, strength: float, **options: Any) -> tuple[str, list[str]]:
    """Train with the check; return what the capture says of it, and the warnings that it gave."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        a_deep_net(
            strength, 0, path, **{"preset": "standard", "check_strength": True, "on_failure": "ignore"} | options
        )
    with Record(path) as record:
        return record.capture["strength_check"], [str(w.message) for w in given if w.category is FindingWarning]


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> float:
    found = gradscope.suggest_strength(a_deep_net, out=tmp_path_factory.mktemp("probes"))
    assert found.tolerance is not None
    return found.tolerance


def test_a_strength_far_beyond_is_warned_of_with_both_numbers(tmp_path: Path, level: float) -> None:
    said, given = recorded(tmp_path / "a.h5", 8 * level)
    assert given == [f"{tmp_path / 'a.h5'}: {said}"]
    with Record(tmp_path / "a.h5") as record:
        found = level_of(record)  # of the same rows, read from the file
        event = next(e for e in record.events if e["kind"] == "finding")
    assert found.tolerance is not None
    assert event["text"] == said
    assert event["step"] < 40
    assert f"weight_decay {16 * level:.4g}" in said
    assert f"weight_decay {2 * found.tolerance:.4g}" in said
    assert f"interval {2 * found.low:.2g} … {2 * found.high:.2g}" in said  # type: ignore[operator]
    assert found.low < level < found.high  # type: ignore[operator]
    assert BEYOND < FAR
    assert ALONE <= BEYOND


def test_a_strength_hopelessly_beyond_is_told_without_an_interval(tmp_path: Path, level: float) -> None:
    said, given = recorded(tmp_path / "a.h5", 60 * level)
    assert "more than 16 times beyond" in said
    assert len(given) == 1


def test_strengths_up_to_the_level_are_not_warned_of(tmp_path: Path, level: float) -> None:
    for number, share in enumerate((0.01, 0.3, 1.0)):
        said, given = recorded(tmp_path / f"{number}.h5", share * level)
        assert "do not read as far beyond" in said
        assert not given


@pytest.mark.parametrize(
    ("strength", "options", "why"),
    [
        (0.0, {}, "no penalty of one strength acted from the start"),
        (0.5, {"every": 10}, "does not begin with"),
        (0.1, {"norm": True}, "whose scale the loss does not depend on"),
        (0.5, {"preset": "cheap"}, "holds no weight_gradient_dot"),
    ],
)
def test_why_nothing_is_read(tmp_path: Path, strength: float, options: dict[str, Any], why: str) -> None:
    said, given = recorded(tmp_path / "a.h5", strength, **options)
    assert why in said
    assert said.startswith("not read: ")
    assert not given


def test_nobody_looks_unless_asked(tmp_path: Path) -> None:
    a_deep_net(0.5, 0, tmp_path / "a.h5", on_failure="ignore")
    with Record(tmp_path / "a.h5") as record:
        assert "strength_check" not in record.capture


def test_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gradscope.InputError, match="check_strength is 'yes'; expected a bool"):
        a_deep_net(0.5, 0, tmp_path / "a.h5", check_strength="yes")


def test_steps_that_a_scaler_skips_tell_nothing(tmp_path: Path) -> None:
    """The same rows are read whether steps were skipped or not; a penalty that never acted is not judged."""
    said = {}
    for skips in (0, 3, 20, 60):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        path = tmp_path / f"{skips}.h5"
        with (
            warnings.catch_warnings(),
            gradscope.record(model, optimizer, path, check_strength=True, on_failure="ignore") as run,
        ):
            warnings.simplefilter("ignore")
            x, y = next(batches(1))
            for step in range(skips + 50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                if step < skips:
                    next(model.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
                scaler.step(optimizer)
                scaler.update()
                run.log(loss=loss)
        with Record(path) as record:
            said[skips] = record.capture["strength_check"]
            assert (record.column("skipped", slice(None)) != 0).sum() == skips
            assert level_of(record).determined or skips == 60
    assert "times beyond" in said[0]
    assert said[0] == said[3] == said[20]
    assert said[60] == f"not read: {FEW_ACTED}"
