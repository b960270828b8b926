"""What the third edition rests on: labels without the judge, causes that are, sentences that are carried out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from analyses.common.results import Results
from analyses.failure_detection.study import STUDY
from analyses.failure_detection.third.cases import CASES, Case
from analyses.failure_detection.third.data import DIGITS
from analyses.failure_detection.third.figures import LINES, between, figures, misses
from analyses.failure_detection.third.gan import NEAR, PAIRS, VARIED, near, varied
from analyses.failure_detection.third.judged import NAMES
from analyses.failure_detection.third.remedies import TRIES, attempts, usual_norm
from gradscope.diagnosis.cause import EXPERIMENT, PENALTY

FAILS = {"kind": "x", "label": "True", "failed": "True", "cause": PENALTY, "verdict": "collapsed", "thermoclaw": "",
         "called": "31", "late": "2", "share": "8.6", "works": "True", "done": "a|b", "remedy": "r",
         "more": "", "then": ""}  # fmt: skip
LEARNS = {**FAILS, "label": "False", "failed": "False", "cause": "", "verdict": "healthy", "thermoclaw": "19",
          "called": "", "late": "", "share": "", "works": "", "done": ""}  # fmt: skip


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_names_are_told_apart() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(CASES) + 2 * len(PAIRS)


@pytest.mark.parametrize(
    ("name", "constant"), [("MLP, decay .3", np.log(10)), ("summed loss", 64 * np.log(10)), ("softmax over one", 0.33),
                           ("grokking, before it does", np.log(23)), ("sixty images by heart", np.log(10))]
)  # fmt: skip
def test_the_label_is_what_a_constant_reaches(name: str, constant: float) -> None:
    """Of the losses alone: no part of gradscope has a say in it."""
    one = case(name)
    assert one.constant == pytest.approx(constant, rel=0.05)
    assert one.fails(np.full(100, one.constant))
    assert one.fails(np.full(100, np.nan))
    assert not one.fails(np.append(np.full(95, one.constant), np.full(5, 0.9 * one.constant)))


def test_an_image_of_a_pair_is_held_against_the_data() -> None:
    x = DIGITS().x
    assert varied(x, x) == pytest.approx(1)
    assert near(DIGITS().x_validation, x) == pytest.approx(1, abs=0.05)
    noise = x.mean(0) + x.std(0) * torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    assert near(noise, x) > NEAR
    assert varied(x[:1].expand(9, -1), x) < VARIED


def test_what_a_remedy_says_is_what_is_tried(tmp_path: Path) -> None:
    one = replace(case("MLP, decay .3"), then=())
    path = tmp_path / "run.h5"

    def words(text: str, of: Case = one) -> list[str]:
        return [attempt.words for attempt in attempts(of, text, path)]

    assert words("use a lower strength (…); a strength to begin with is about weight_decay 0.09 (λ 0.045), at which …; "
                 "with --schedule delayed:auto (…) …") == ["decay 0.09", "delayed:auto"]  # fmt: skip
    assert words("learning rate too high first: lower the learning rate, or warm it up") == [
        "lr 0.005", "lr 0.0005", "lr 5e-05",
    ]  # fmt: skip
    assert words("x first: lower the learning rate to about 0.012, or warm it up") == ["lr 0.012"]
    assert words("no delay will help: …; use a lower strength (…); a strength to begin with is about weight_decay 0.09 "
                 "(λ 0.045), at which …") == ["decay 0.09"]  # fmt: skip
    assert words("dead units first: lower the learning rate, begin with smaller biases, or use LeakyReLU there") == [
        "lr 0.005", "biases at 0", "LeakyReLU",
    ]  # fmt: skip
    assert words("nothing in the record points to a cause: look at data and labels") == []
    assert words("look at what the data loader and the embedding return") == []
    experiment = attempts(one, EXPERIMENT, path)
    assert [(attempt.tells, attempt.case.decay) for attempt in experiment] == [(True, 0.0)]
    assert (
        max(len(words(text, one)) for text in ("raise the learning rate", "weaken what acts on these outputs")) == TRIES
    )


def test_slips_can_be_mended() -> None:
    """Each case whose remedy is to mend a slip of the script says what that is."""
    for name in ("left out", "stale", "frozen", "in a list", "detached", "softmax over one", "softmax twice"):
        made = attempts(case(name), "make the optimizer from model.parameters(), …", Path())
        assert [attempt.words for attempt in made] == ["the slip mended"]
        assert made[0].case != case(name)
    model, optimizer = attempts(case("stale"), "make the optimizer from …", Path())[0].case.prepared(0)
    assert {id(p) for p in model.parameters()} == {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_the_usual_norm_is_that_before_clipping(tmp_path: Path) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore") as run:
        for _ in range(20):
            loss = model(torch.tensor([[3.0, 4.0]])).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
            run.log(loss=loss)
    assert usual_norm(tmp_path / "run.h5") == pytest.approx(5)


def test_figures_of_known_rows() -> None:
    rows = [
        {"run": "a/0", "right": "", **LEARNS},
        {"run": "b/0", "right": PENALTY, **FAILS},
        {"run": "c/1", "right": "x|y", **FAILS, "works": "False"},
        {"run": "d/1", "right": PENALTY, **LEARNS},
    ]
    said = {name: line(rows) for name, line in LINES.items()}
    assert said["fail by the label, of those meant to"] == (2, 3)
    assert said["false alarms, taken back or not"] == (0, 2)
    assert said["**right cause**"] == (1, 2)
    assert said["**the penalty blamed where it is innocent**"] == (1, 1)
    assert said["**the remedy works**"] == (1, 2)
    assert said["it works as its first words say"] == (0, 2)
    assert said["thermoclaw: false alarms"] == (2, 2)
    lines = list(figures(rows))
    assert lines[0] == "| | seed 0 | seed 1 | all |"
    assert "| **right cause** | 1 of 1 | 0 of 1 | 1 of 2 (9 to 91 %) |" in lines
    assert lines[-1].endswith("| 8.6 (8.6) | none | 8.6 (8.6) |")
    assert between((0, 46)) == "0 of 46 (0 to 8 %)"
    assert [line.partition(":")[0] for line in misses(rows)] == ["c/1", "c/1"]


def test_the_page_shows_the_figures_of_the_rows() -> None:
    page = (STUDY.results.parent / "README.md").read_text(encoding="utf-8")
    for line in figures(Results(STUDY.results / "third.csv").recorded()):
        assert line in page
