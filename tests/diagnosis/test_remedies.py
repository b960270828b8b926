"""What a remedy says: numbers that the record holds, no delay where none can help, nothing of a generator's loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradscope
from gradscope import Verdict
from gradscope.diagnosis.cause import PENALTY, UNKNOWN, Cause
from gradscope.diagnosis.judge import SAMPLES, Judge
from gradscope.diagnosis.remedies import NO_DELAY, Lower, for_learning, likely, lower, remedy
from gradscope.run_info import SINGLE
from gradscope.store.record import Record
from tests.helpers.shrinking_rows import INFO, look, rows

GENERATOR = replace(INFO, baseline_source="guessed: mean loss of the first 16 steps", loss_kind=f"unknown: {SINGLE}: …")


@pytest.mark.parametrize(("decay", "bound"), [(5.0, False), (30.0, True)])
def test_decoupled_decay_that_no_delay_outlives(decay: float, bound: bool) -> None:
    """Steps of an adaptive optimizer are about as long as its rate, so weights end at 1/weight_decay at most."""
    info = replace(INFO, adaptive=(True,), beside=(True,))
    found = lower(look(rows(50, decay / 2), info))  # weights begin at .1 on average
    assert (found is not None) is bound
    if found is None:
        return
    assert found.strength == pytest.approx(0.5 / 0.1 / 2)
    said = remedy(Verdict.COLLAPSED, False, [Cause(PENALTY, 0.8)], found.words("l2"), found.bound)
    assert said.startswith(NO_DELAY)
    assert "1/weight_decay = 0.033" in said
    assert "begin with is about weight_decay 5 (λ 2.5)" in said
    assert lower(look(rows(50, decay / 2), replace(info, penalty="l1"))) is None


def test_one_run_that_learns_tells_no_level() -> None:
    """Of 284 runs of the benchmark that learn under a penalty, 53 lie above their level: near it, or delayed."""
    assert for_learning(penalised=False) == "none needed: it learns"
    assert "tolerance" not in for_learning(penalised=True)


def net(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> gradscope.Diagnosis:
    """300 steps on which of the first two features is larger."""
    with gradscope.record(model, optimizer, path, horizon=300, on_failure="ignore") as run:
        for _ in range(300):
            x = torch.randn(64, 8)
            loss = F.cross_entropy(model(x), (x[:, 0] > x[:, 1]).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return gradscope.diagnose(path)


def test_the_strength_to_begin_with_is_one_under_which_adamw_learns(tmp_path: Path) -> None:
    """At the strength that failed the weights are where the bound says; at the one that is named it learns."""

    def with_decay(model: nn.Module, decay: float) -> gradscope.Diagnosis:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=decay)
        return trained(model, optimizer, tmp_path / f"{decay}.h5")

    failed = with_decay(crushed := net(8, 32, 32, 2), 100.0)
    assert float(torch.cat([p.detach().abs().flatten() for p in crushed.parameters()]).mean()) < 1 / 100
    assert failed.remedy.startswith(NO_DELAY)
    named = re.search(r"begin with is about weight_decay ([0-9.]+)", failed.remedy)
    assert named is not None
    assert with_decay(net(8, 32, 32, 2), float(named[1])).verdict is Verdict.HEALTHY


@pytest.mark.parametrize(
    ("rate", "optimizer"), [(1e-7, torch.optim.SGD), (30.0, torch.optim.SGD), (1e-8, torch.optim.Adam)]
)
def test_a_rate_is_named_with_which_it_learns(
    rate: float, optimizer: Callable[..., torch.optim.Optimizer], tmp_path: Path
) -> None:
    def at(lr: float) -> gradscope.Diagnosis:
        model = net(8, 32, 2)
        return trained(model, optimizer(model.parameters(), lr=lr), tmp_path / f"{lr}.h5")

    failed = at(rate)
    assert failed.cause.startswith("learning rate too")
    named = re.search(r"to about ([0-9.e-]+)", failed.remedy)
    assert named is not None
    assert at(float(named[1])).verdict is Verdict.HEALTHY


def test_units_that_were_dead_before_any_step_are_not_the_rates_doing(tmp_path: Path) -> None:
    model = net(8, 32, 2)
    nn.init.constant_(model[0].bias, -50.0)
    found = trained(model, torch.optim.SGD(model.parameters(), lr=1e-2), tmp_path / "r.h5")
    assert found.cause == "dead units"
    assert "learning rate" not in found.remedy
    assert "smaller biases" in found.remedy


@pytest.mark.parametrize("fall", [-1e-3, 1e-3])
def test_a_generators_loss_tells_neither_way(fall: float) -> None:
    """Its targets are ones alone: it falls or rises with what the discriminator can do."""
    table = rows(400, strength=0.0, fall=0.0) | {"loss": 2.3 * np.exp(-fall * np.arange(400) * 2)}
    table["activation_std"] = np.ones((400, 2))
    judge = Judge(replace(GENERATOR, horizon=400))
    judge.update(table)
    for finished in (False, True):
        found = judge.diagnosis(finished)
        assert found.verdict is Verdict.UNDECIDED
        assert found.probability_failed == 0.5
        assert found.active_step is None
    assert found.remedy == SAMPLES
    assert any("no baseline tells" in line for line in found.evidence)
    given = Judge(replace(GENERATOR, baseline_source="given", horizon=400))
    given.update(table)
    assert given.diagnosis(finished=True).failed is (fall < 0)


def test_a_generator_is_not_crushed_for_its_loss(tmp_path: Path) -> None:
    """Weights and gradients that fall together are no collapse there, unless all that is drawn is one image."""
    table = rows(400, fall=0.02) | {"activation_std": np.ones((400, 2))}
    judge = Judge(replace(GENERATOR, horizon=400))
    judge.update(table)
    assert judge.failure is None
    one = Judge(replace(GENERATOR, horizon=400))
    one.update(rows(400, fall=0.02) | {"activation_std": 1e-5 * np.exp(-0.1 * np.arange(400.0))[:, None] * np.ones(2)})
    found = one.diagnosis()
    assert found.failed
    assert found.cause != PENALTY
    assert not any("baseline" in line for line in found.evidence)


def test_a_generator_and_its_discriminator(tmp_path: Path) -> None:
    """Recorded together: of one nothing is told, of the other that it tells what is made up from the data."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, n)) for n in (4, 1)]
    made = [torch.optim.Adam(net.parameters(), lr=lr) for net, lr in zip(nets, (1e-5, 1e-2), strict=True)]
    paths = [tmp_path / "generator.h5", tmp_path / "discriminator.h5"]
    runs = [gradscope.record(*these, horizon=200, on_failure="ignore") for these in zip(nets, made, paths, strict=True)]
    with runs[0], runs[1]:
        for _ in range(200):
            real, fake = 3 + torch.randn(64, 4), nets[0](torch.randn(64, 4))
            losses = [
                F.binary_cross_entropy_with_logits(nets[1](fake), torch.ones(64, 1)),
                F.binary_cross_entropy_with_logits(nets[1](real), torch.ones(64, 1))
                + F.binary_cross_entropy_with_logits(nets[1](fake.detach()), torch.zeros(64, 1)),
            ]
            for run, optimizer, loss in zip(runs, made, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
    with Record(paths[0]) as record:
        assert record.info.adversary
        assert gradscope.diagnose(paths[0]).verdict is Verdict.UNDECIDED
    with Record(paths[1]) as record:
        assert not record.info.adversary
        assert gradscope.diagnose(paths[1]).verdict is Verdict.HEALTHY


def test_what_is_likely_is_named_beside_an_undecided() -> None:
    assert likely([Cause("initialisation", 0.9, ["x"], [], "draw anew")]) == (
        ["initialisation: x"], "initialisation first: draw anew",
    )  # fmt: skip
    assert likely([Cause("initialisation", 0.7, ["x"], [], "draw anew")])[1].startswith("perhaps initialisation first")
    for nothing in (Cause(PENALTY, 0.9), Cause(UNKNOWN, 0.9), Cause("initialisation", 0.5)):
        assert likely([nothing]) == ([], "")


def test_a_strength_is_said_in_both_words() -> None:
    assert "weight_decay 0.1 (λ 0.05), because" in Lower(0.05, "because").words("l2")
    assert "weight_decay" not in Lower(0.05, "because").words("l1")


def test_what_falls_back_to_the_baseline_was_not_in_its_active_phase() -> None:
    """For a few steps it was a tenth below: the penalty never let it learn, so a delay may help."""
    table = rows(200, fall=0.015)
    passing = 2.3 - 0.23 * np.exp(-0.5 * ((np.arange(200) - 14) / 8) ** 2)
    judge = Judge(replace(INFO, horizon=200))
    judge.update(table | {"loss": passing})
    found = judge.diagnosis()
    assert found.verdict is Verdict.COLLAPSED
    assert judge.escaped_step is not None
    assert found.active_step is None
    assert not found.remedy.startswith(NO_DELAY)


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize(("on", "spent"), [(0, False), (60, True)])
def test_a_delay_is_spent_once_the_penalty_waited_for_the_active_phase(on: int, spent: bool, steered: bool) -> None:
    """A run that learns a little and slows down may do so because of its penalty, if that acts from the start."""
    t = np.arange(300)
    fallen = np.clip(t - on, 0, None)
    table = rows(300, fall=0.0)
    for name in ("weight_mean_abs", "weight_norm", "penalty_gradient_mean_abs"):
        table[name] = table[name] * np.exp(-0.02 * fallen)[:, None]
    table["loss_gradient_mean_abs"] = table["weight_mean_abs"] ** 2
    table["weight_gradient_dot"] = -0.1 * table["weight_mean_abs"] ** 3
    table["activation_std"] = np.exp(-0.02 * fallen[:, None] * np.array([1.0, 2.0]))
    moving = np.where(steered & (t < 120), 1 + 1e-4 * t, 1.0)  # what follows the loss acts, too, while it moves
    table["strength"] = (np.where(t < on, 0.0, 0.05) * moving)[:, None]
    loss = 2.3 - 0.3 * (1 - np.exp(-t / 5)) * np.where(t < 100, 1.0, np.exp(-(t - 100) / 10))
    judge = Judge(replace(INFO, horizon=300, steered=steered))
    judge.update(table | {"loss": loss})
    found = judge.diagnosis(finished=True)
    assert found.verdict is Verdict.COLLAPSED
    assert found.active_step is not None
    assert found.remedy.startswith(NO_DELAY) is spent
