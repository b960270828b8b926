"""What a notebook shows of recordings, diagnoses and searches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.card import STROKES, card
from gradscope.report.page.colours import contrast
from gradscope.tolerance.posterior import estimate_tolerance
from gradscope.tolerance.result import ToleranceResult
from gradscope.trials.trial import Outcome
from tests.helpers.loops import mlp, train


def test_a_card_escapes_and_its_stroke_is_seen_on_light_and_dark() -> None:
    html = card("<b>", "failed", ["a & b"], {"<i>": "<u>"})
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html
    assert "&lt;u&gt;" in html
    for stroke in STROKES.values():
        assert contrast(stroke, "#ffffff") >= 3
        assert contrast(stroke, "#111111") >= 3


def test_a_recording_and_its_diagnosis(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradscope.record(model, optimizer, tmp_path / "run<1>.h5", on_failure="ignore") as run:
        train(model, optimizer, 5, run)
        html = run._repr_html_()
    assert "undecided" in html
    assert "run&lt;1&gt;.h5" in html
    assert "running" in html
    with gradscope.open_run(tmp_path / "run<1>.h5") as dataset:
        diagnosis = gradscope.diagnose(dataset)
    assert diagnosis.sentence.split(":")[0] in diagnosis._repr_html_()


@pytest.mark.parametrize("determined", [True, False])
def test_a_search(determined: bool) -> None:
    outcomes = [Outcome(0.01, 0.02), Outcome(0.1, 0.98)] if determined else []
    html = ToleranceResult("l2", estimate_tolerance(outcomes), None, ())._repr_html_()
    assert ("weight_decay" in html) is determined
    assert ("not determined" in html) is not determined
