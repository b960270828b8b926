"""The calibrated probability of failure, where a collapse begins, and what is proposed against it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from analyses.failure_detection.fit import NEEDS, SHIPPED, as_json, fit, fit_table, read_features
from gradscope.diagnosis.failing import collapsed
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.origin import Origin
from gradscope.diagnosis.probability import Model, name_of, shipped, used
from gradscope.diagnosis.remedies import Lower, lower
from gradscope.diagnosis.series import network_series
from gradscope.diagnosis.signals import PHASES, SIGNALS, available, phase, signals
from gradscope.types import Verdict
from tests.helpers.shrinking_rows import INFO, look, rows


def test_the_shipped_model_is_what_the_committed_command_makes_of_the_committed_table() -> None:
    """One availability here; all of them, and the threshold, in the slow test."""
    subset = frozenset(NEEDS)
    text = json.loads(SHIPPED.read_text())
    made = fit_table(read_features(), [subset])[name_of(subset)]
    for name, phase_of in text["table"][name_of(subset)].items():
        assert phase_of["intercept"] == pytest.approx(made[name]["intercept"], rel=1e-2, abs=1e-3)
        for signal, numbers in phase_of["signals"].items():
            assert numbers == pytest.approx(made[name]["signals"][signal], rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_the_shipped_file_is_the_output_of_the_fit() -> None:
    assert json.loads(SHIPPED.read_text()) == json.loads(as_json(fit(read_features())))


def test_every_availability_has_a_probability_in_every_phase() -> None:
    model = shipped()
    for met in (frozenset(), frozenset({"loss"}), frozenset({"activations", "balance"}), frozenset(NEEDS)):
        for name in ("off", *(f"{end:g}" for end in PHASES), "later"):
            assert 0 < model.probability(met, name, {}) < 1  # no signal says nothing: the share of failures
    assert 0.9 <= model.threshold < 1
    assert math.isnan(Model({"gradients": {}}, 1.0).probability(frozenset(), "1", {}))


def test_phases_count_e_folding_times() -> None:
    for steps, name in ((20, "0.25"), (60, "1"), (150, "2"), (1000, "later")):  # e-folding time 100 steps
        assert phase(look(rows(steps))) == name
    assert phase(look(rows(60, strength=0.0))) == "off"


def test_signals_by_construction() -> None:
    found = signals(look(rows(300)))
    assert set(found) == set(SIGNALS)
    assert found["free_fall"] == pytest.approx(1, rel=0.01)  # exp(−.01 t): as the penalty alone does it
    assert found["gap"] == pytest.approx(0)
    assert found["gradient_slope"] == pytest.approx(-1, rel=0.05)  # half an e-folding time of w²
    assert found["signal"] == pytest.approx(-2.99)
    assert signals(look(rows(300, strength=0.0)))["proportion"] is not None


def test_what_was_not_recorded_is_not_used() -> None:
    table = rows(100)
    for name in ("activation_std", "activation_mean_abs", "weight_gradient_dot"):
        del table[name]
    seen = look(table)
    assert available(seen) == {"loss"}
    assert {name for name, value in signals(seen).items() if math.isnan(value)} == set(SIGNALS) - set(used({"loss"}))
    unsure = look(table, replace(INFO, baseline_source="guessed: mean loss of the first 16 steps"))
    assert available(unsure) == frozenset()
    judge = Judge(INFO)
    judge.update(table)
    assert any("activation signals, the radial balance" in line for line in judge.diagnosis().evidence)


def test_where_it_begins() -> None:
    origin = Origin(INFO, 16)
    table = rows(150)
    for start in range(0, 150, 7):
        origin.see({name: values[start : start + 7] for name, values in table.items()})
    assert origin.layers()[0] == "2.weight"  # its signal fell below 1/e first, at step 101
    assert any("2 fell first" in line and "step 101" in line for line in origin.evidence())
    assert any("homogeneous" in line for line in origin.evidence())
    table["weight_gradient_dot"][:, 0] *= -5
    other = Origin(INFO, 16)
    other.see({name: values for name, values in table.items() if name != "activation_std"})
    assert other.layers()[0] == "0.weight"  # without activations: the lowest radial balance
    assert not any("homogeneous" in line for line in other.evidence())


def strength_of(found: Lower | None) -> float:
    assert found is not None
    return found.strength


def test_the_strength_to_begin_with_has_equal_gradients() -> None:
    """Under SGD; where the loss was stronger it is not what was too much."""
    series = look(rows(50)).series
    share = series.gradient[:16].mean() / series.penalty[:16].mean()
    for strength in (0.05, 5.0):  # the same number, whichever strength was too much
        assert strength_of(lower(look(rows(50, strength)))) == pytest.approx(0.05 * share)
    assert lower(look(rows(50, 0.01))) is None
    assert lower(look(rows(50, 0.0))) is None


@pytest.mark.parametrize("back", [False, True])
def test_a_called_failure_is_taken_back_by_learning_alone(back: bool) -> None:
    """Not by a lower probability; and by a loss that is clearly below a known baseline once, visibly."""
    judge = Judge(INFO)
    table = rows(400)
    table["loss"][200:] = np.linspace(2.3, 1.0 if back else 2.15, 200)  # it comes back after all, or hardly
    said = []
    for start in range(0, 400, 8):
        judge.update({name: values[start : start + 8] for name, values in table.items()})
        said.append(judge.diagnosis().verdict)
    assert Verdict.COLLAPSED in said
    first = said.index(Verdict.COLLAPSED)
    changes = [v for before, v in pairwise(said[first:]) if v is not before]
    assert len(changes) == int(back)
    if back:
        assert any("called collapsed at step" in line and "taken back" in line for line in judge.diagnosis().evidence)
    else:
        assert judge.diagnosis().probability_failed >= judge.model.threshold


def test_coupled_decay_under_adam_has_a_clock() -> None:
    """A step of about lr, of which the penalty has the share |r|/(|g| + |r|)."""
    table = rows(10)
    series = network_series(table, replace(INFO, adaptive=(True,)))
    g, r, w = (table[n][:, 0] for n in ("loss_gradient_mean_abs", "penalty_gradient_mean_abs", "weight_mean_abs"))
    np.testing.assert_allclose(series.rate, 0.1 * r / (g + r) / w)


def test_the_radial_balance_does_not_speak_for_adaptive_optimizers() -> None:
    table = {name: values for name, values in rows(250).items() if not name.startswith("activation")}
    table["weight_gradient_dot"] *= 0
    assert collapsed(look(table)) is not None
    assert collapsed(look(table, replace(INFO, adaptive=(True,)))) is None


@pytest.mark.parametrize(
    ("back_for", "adaptive", "lost"), [(600, False, True), (600, True, False), (300, False, False)]
)
def test_a_run_that_learned_and_lost_it_under_the_penalty(back_for: int, adaptive: bool, lost: bool) -> None:
    """Weights at rest, e-folding time 100 steps: at the baseline again for more than four of them, or for less."""
    table = rows(900, fall=0.0)
    table["loss"] = np.full(900, 1.0)
    table["loss"][:50] = table["loss"][200 : 200 + back_for] = 2.3
    table["loss"][200 + back_for :] = 1.0
    judge = Judge(replace(INFO, adaptive=(adaptive,)))
    judge.update({name: values[: 200 + back_for] for name, values in table.items()})
    diagnosis = judge.diagnosis()
    assert diagnosis.failed == lost
    assert diagnosis.active_step is not None
    if lost:
        assert diagnosis.verdict is Verdict.COLLAPSED
        assert 200 <= diagnosis.onset_step <= 300
        assert diagnosis.decided_step >= 600
        assert "has lost it: for 4 e-folding times" in diagnosis.evidence[0]
        assert "no delay will help" in diagnosis.remedy
