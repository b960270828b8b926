"""A trial beside the finished ones of its configuration: its place among them, the rule, what a record keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from analyses.failure_detection import siblings as study
from gradscope.diagnosis import siblings
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.siblings import SiblingModel, alike, level, middle, nearest
from gradscope.run_info import RunInfo, Sibling
from gradscope.types import Verdict
from tests.helpers.shrinking_rows import INFO, look, rows

#: They say that a run which does as `rows` does is one of those that failed.
FAILED = Sibling(0.06, True, tuple(-0.08 * k for k in range(60)))
LEARNED = Sibling(0.04, False, tuple(12.0 for _ in range(60)))


def slow_middle(strength: float, known: list[Sibling], at: int) -> float:
    """The same, as the definition reads: no early exit, every weight written out."""
    means = []
    for kind in (True, False):
        same = [s for s in known if s.failed == kind]
        distance = np.array([abs(math.log(s.strength) - math.log(strength)) for s in same])
        order = np.argsort(distance, kind="stable")[:3]
        held = np.array([(s.signal + (s.signal[-1],) * 100)[at] for s in same])[order]
        weight = np.exp(-distance[order] / 0.15)
        seen = np.isfinite(held)
        means.append((weight[seen] * held[seen]).sum() / weight[seen].sum() if seen.any() else np.nan)
    return 0.5 * (means[0] + means[1])


def test_the_middle_is_that_of_the_definition() -> None:
    random = np.random.default_rng(3)
    for count in (2, 5, 12):
        known = [
            Sibling(
                float(np.exp(random.normal(0, 0.3))), bool(k % 2), tuple(random.normal(size=random.integers(1, 20)))
            )
            for k in range(count)
        ]
        for at in (0, 3, 30):
            assert middle(1.1, known, at) == pytest.approx(slow_middle(1.1, known, at), rel=1e-6)
            assert middle(1.1, nearest(1.1, known), at) == middle(1.1, known, at)  # what is handed on is enough


def test_one_kind_alone_has_no_middle() -> None:
    assert math.isnan(middle(0.05, [], 0))
    assert math.isnan(middle(0.05, [FAILED, FAILED], 0))
    assert math.isnan(middle(0.05, [FAILED, Sibling(0.04, False, ())], 0))
    assert math.isnan(middle(0.05, [FAILED, Sibling(0.04, False, (math.nan,))], 0))
    assert math.isnan(SiblingModel(0, 1, -1, 0.9).probability(0.5, math.nan))


def test_what_lies_below_the_middle_is_more_likely_to_fail() -> None:
    model = siblings.shipped_siblings()
    assert model.probability(0.5, -2) > model.probability(0.5, 0) > model.probability(0.5, 2)
    assert model.probability(0.9, 0) > model.probability(0.1, 0)
    assert model.probability(0.5, 0) == model.probability(math.nan, 0)
    assert model.probability(0.5, -100) == model.probability(0.5, -siblings.FARTHEST)
    assert 0.9 <= model.threshold < 1


def test_a_penalty_that_changes_has_no_siblings() -> None:
    """The same row is another moment then."""
    assert alike(np.array([0.1, 0.1]))
    assert not alike(np.array([0.0, 0.1]))
    assert not alike(np.array([0.1, 0.2]))
    assert not alike(np.array([0.0, 0.0]))
    info = replace(INFO, siblings=(FAILED, LEARNED))
    model = siblings.shipped_siblings()
    assert not math.isnan(siblings.probability(look(rows(24), info), 1, 0.5, model))
    late = rows(24)
    late["strength"][:8] = 0
    assert math.isnan(siblings.probability(look(late, info), 1, 0.5, model))
    assert math.isnan(siblings.probability(look(rows(24)), 1, 0.5, model))


def judged(info: RunInfo, steps: int = 400) -> Judge:
    judge = Judge(info)
    judge.update(rows(steps))
    return judge


def test_a_sibling_makes_a_verdict_earlier_and_the_evidence_says_so() -> None:
    alone, beside = judged(INFO).diagnosis(), judged(replace(INFO, siblings=(FAILED, LEARNED))).diagnosis()
    assert (alone.verdict, beside.verdict) == (Verdict.COLLAPSED, Verdict.COLLAPSED)
    assert alone.decided_step is not None and beside.decided_step is not None
    assert beside.decided_step < alone.decided_step
    said = next(line for line in beside.evidence if line.startswith("beside "))
    assert said.startswith("beside 2 finished trials at λ = 0.04 … 0.06, of which 1 failed, such signals mean")
    assert not any("beside" in line for line in alone.evidence)
    assert beside.probability_failed >= siblings.shipped_siblings().threshold


def test_weights_that_do_not_fall_are_never_called_beside_anyone() -> None:
    judge = Judge(replace(INFO, siblings=(FAILED, LEARNED)))
    judge.update(rows(400, fall=-0.001))
    assert judge.failure is None


def test_the_signal_of_a_run_is_what_it_is_to_others() -> None:
    judge = judged(INFO, 64)
    assert len(judge.signal) == 7  # rows 16, 24, …, 64
    assert judge.signal[-1] == level(judge.series) == pytest.approx(-0.63, abs=1e-4)
    unseen = Judge(INFO)
    unseen.update({name: values for name, values in rows(64).items() if not name.startswith("activation")})
    assert unseen.signal == ()
    never = Judge(INFO)
    never.update(rows(64, strength=0.0))
    assert never.signal == ()


def test_a_record_keeps_them() -> None:
    entry = Sibling(0.1, True, (-1.25, math.nan)).as_dict()
    text = json.dumps([entry], allow_nan=False)
    capture = {"siblings": json.loads(text)}
    static = {"numel": [4], "penalised": [True], "group": [0]}
    info = RunInfo.of(["w"], [], static, "l2", {"groups": [{}]}, capture)
    assert info.siblings[0].signal[0] == -1.25 and math.isnan(info.siblings[0].signal[1])
    for wrong in (["x"], [{"strength": 1}], [{**entry, "strength": -1}], [{**entry, "signal": "a"}], 3):
        assert RunInfo.of(["w"], [], static, "l2", {"groups": [{}]}, {"siblings": wrong}).siblings == ()


def test_the_shipped_file_is_what_the_committed_command_makes_of_the_committed_tables() -> None:
    assert study.wrong() == []
