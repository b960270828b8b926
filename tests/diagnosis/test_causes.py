"""Causes before remedies: small forms of what people report, and one answer that does not contradict itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from gradscope import Verdict
from gradscope.demo.data import digits
from gradscope.diagnosis.cause import EXPERIMENT, PENALTY, UNDECLARED, Cause
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.remedies import remedy
from gradscope.diagnosis.rules.catalogue import RULES
from gradscope.diagnosis.rules.checker import Checker
from gradscope.diagnosis.rules.post_hoc import check
from gradscope.restart.attempt import Attempt
from gradscope.restart.history import status_of
from gradscope.restart.policy import DelayedRestart
from tests.helpers.attempts import attempt
from tests.helpers.shrinking_rows import INFO, rows


def mlp(hidden: int = 2, width: int = 32) -> nn.Sequential:
    sizes = [64, *[width] * hidden, 10]
    return nn.Sequential(*[part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())][:-1])


def he(model: nn.Module) -> nn.Module:
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    return model


def large(model: nn.Module, std: float) -> nn.Module:
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, std)
    return model


def bias(model: nn.Sequential, value: float) -> nn.Sequential:
    nn.init.constant_(model[0].bias, value)
    return model


class Coded(nn.Module):
    """An autoencoder whose code a term of its own keeps small."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.act, self.decode = nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64)

    def forward(self, x: Tensor) -> Tensor:
        self.code = self.act(self.encode(x))
        return self.decode(self.code)


@dataclass
class Case:
    """A training; ``cause``: what the judge is to name first, None for a run that learns."""

    cause: str | None
    model: Callable[[], nn.Module] = mlp
    lr: float = 0.1
    decay: float = 0.0
    steps: int = 240
    clip: float | None = None
    scale: float = 1.0
    code: float | None = None
    adam: bool = False
    value: float | None = None
    by_hand: float = 0.0


CASES = {
    "learns": Case(None),
    "learns, clipped a little": Case(None, clip=1.0),
    "crushed by its penalty": Case(PENALTY, lambda: he(mlp(5)), lr=0.05, decay=0.4),
    "clipped to almost nothing": Case("gradient clipping", lr=0.05, decay=2e-2, clip=1e-3),
    "clipped, no penalty": Case("gradient clipping", lr=0.05, clip=1e-4),
    "twenty layers, default initialisation": Case("initialisation", lambda: mlp(19, 24), lr=0.05, decay=1e-3),
    "the same, a stronger penalty": Case("initialisation", lambda: mlp(19, 24), lr=0.05, decay=2e-2),
    "dead from the start": Case("dead units", lambda: bias(mlp(), -20.0), decay=1e-2),
    "inputs scaled down twice": Case("input scale", lambda: mlp(4), scale=1e-5, lr=0.02, decay=1e-2),
    "rate far too low": Case("learning rate too low", lr=1e-7),
    "slow": Case("too short or too slow", lr=4e-4, steps=200),
    "softmax twice": Case("softmax twice", lambda: nn.Sequential(*mlp(4), nn.Softmax(1)), lr=1e-3),
    "code died": Case("dead units", Coded, lr=3e-3, code=1.0, adam=True),
    "clipped by value": Case("gradient clipping", lr=0.05, value=1e-6),
    "clipped by value, a little": Case(None, value=0.1),
    "initial weights far too large": Case("initialisation", lambda: large(mlp(), 3.0), lr=0.01),
    "a decay by hand": Case(UNDECLARED, lambda: he(mlp(5)), lr=1e-3, adam=True, by_hand=0.1),
    "a small decay by hand": Case(None, lr=1e-3, adam=True, by_hand=1e-5),
    "code lives": Case(None, Coded, lr=3e-3, code=1e-6, adam=True, steps=600),
}


def train(case: Case, path: Path) -> gradscope.Diagnosis:
    torch.manual_seed(0)
    data, model = digits(), case.model()
    x = data.x * case.scale
    make = torch.optim.Adam if case.adam else torch.optim.SGD
    more: dict[str, Any] = {} if case.adam else {"momentum": 0.9}
    optimizer = make(model.parameters(), lr=case.lr, weight_decay=case.decay, **more)
    with gradscope.record(model, optimizer, path, on_failure="ignore", horizon=case.steps) as run:
        for _ in range(case.steps):
            batch = torch.randint(0, len(x), (64,))
            output = model(x[batch])
            loss = F.cross_entropy(output, data.y[batch]) if case.code is None else F.mse_loss(output, x[batch])
            term = 0.0 if case.code is None else case.code * model.code.abs().sum() / 64
            optimizer.zero_grad()
            (loss + term).backward()
            if case.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), case.clip)
            if case.value is not None:
                nn.utils.clip_grad_value_(model.parameters(), case.value)
            optimizer.step()
            if case.by_hand:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1 - case.by_hand)
            run.log(loss=loss)
    return run.verdict


@pytest.mark.parametrize("name", CASES)
def test_the_right_cause_comes_first(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    found = train(case, tmp_path / "r.h5")
    if case.cause is None:
        assert found.verdict is Verdict.HEALTHY
        assert found.cause == ""
        return
    assert found.failed
    assert found.cause == case.cause, found.causes
    assert (found.verdict is Verdict.COLLAPSED) == (case.cause == PENALTY)
    assert found.cause in found.remedy or case.cause == PENALTY
    assert "would hold" not in found.remedy


def consistent(found: gradscope.Diagnosis) -> bool:
    if found.verdict is Verdict.HEALTHY:
        return found.probability_failed < 0.5 and not found.failed and "restart" not in found.remedy
    if found.verdict is Verdict.UNDECIDED:
        return 0.1 <= found.probability_failed <= 0.9 and "none needed" not in found.remedy
    told = found.remedy != "" and "none needed" not in found.remedy
    return found.failed and found.probability_failed > 0.5 and told


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("source", ["given", "estimated: x", "guessed: mean loss of the first 16 steps"])
def test_no_answer_contradicts_itself(seed: int, source: str) -> None:
    """Whatever the rows are, and at every look: verdict, probability and remedy say one thing."""
    generator = np.random.default_rng(seed)
    table = rows(400, strength=float(generator.choice([0.0, 0.05])), fall=float(generator.choice([0.0, 0.004, 0.02])))
    level = np.interp(np.arange(400), np.linspace(0, 399, 6), generator.choice([0.3, 1.5, 2.3, 2.31, 4.0], 6))
    table["loss"] = level + 0.02 * generator.normal(size=400)
    if seed % 3 == 0:
        table["activation_std"] *= 1e-3
    judge = Judge(replace(INFO, baseline_source=source, horizon=400 if seed % 2 else None))
    for start in range(0, 400, 8):
        judge.update({name: values[start : start + 8] for name, values in table.items()})
        assert consistent(judge.diagnosis()), judge.diagnosis()
    final = judge.diagnosis(finished=True)
    assert consistent(final), final
    if final.verdict is Verdict.HEALTHY and not source.startswith("g"):
        assert table["loss"][-20:].mean() < 2.3


def test_nobody_is_healthy_with_a_loss_above_its_baseline(tmp_path: Path) -> None:
    """The loss of a critic falls while what it has to predict is small, and rises with it (public/r7)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for step in range(400):
            size = 20.0 if step < 60 else 15.0 if step < 120 else 25.0
            loss = 0.5 * (model(torch.randn(64, 8)) - size * torch.randn(64, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            if step in (200, 399):
                assert run.verdict.verdict is Verdict.UNDECIDED
    assert run.verdict.verdict is Verdict.UNDECIDED
    assert any("guessed" in line for line in run.verdict.evidence)


@pytest.mark.parametrize("seed", range(8))
def test_scatter_around_a_guess_is_no_learning(seed: int) -> None:
    """A policy's surrogate loss under a reward of no meaning: around 0, below its first losses half of the time."""
    table = rows(400, strength=0.0, fall=0.0) | {"activation_std": np.ones((400, 2))}
    noise = np.random.default_rng(seed).normal(0, 0.02, 400)
    guess = replace(INFO, penalised=np.array([False, False]), baseline_loss=float("nan"), horizon=400)
    judge = Judge(guess)
    judge.update(table | {"loss": noise})
    assert judge.diagnosis(finished=True).verdict is Verdict.UNDECIDED
    judge = Judge(guess)
    judge.update(table | {"loss": noise + np.linspace(1.0, 0.2, 400)})
    assert judge.diagnosis(finished=True).verdict is Verdict.HEALTHY


@pytest.mark.parametrize(("steps", "every"), [(300, 20), (600, 20), (2000, 100), (400, 1), (120, 60)])
def test_losses_that_are_logged_now_and_then_can_be_clear_of_a_guess(steps: int, every: int) -> None:
    """From 1.43 to .013, whatever is logged of it."""
    table = rows(steps, strength=0.0, fall=0.0) | {"activation_std": np.ones((steps, 2))}
    loss = np.full(steps, np.nan)
    loss[::every] = (0.013 + 1.42 * np.exp(-6 * np.arange(steps) / steps))[::every]
    guess = replace(INFO, penalised=np.array([False, False]), baseline_loss=float("nan"), horizon=steps)
    judge = Judge(guess)
    judge.update(table | {"loss": loss})
    assert judge.diagnosis(finished=True).verdict is Verdict.HEALTHY


def test_healthy_on_a_guess_names_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", horizon=200) as run:
        for _ in range(200):
            x = torch.randn(32, 8)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    assert run.verdict.verdict is Verdict.HEALTHY
    assert "guessed" in run.verdict.sentence
    assert "baseline_loss" in run.verdict.remedy


def net(how: str) -> tuple[nn.Module, list[Tensor]]:
    model = mlp()
    parameters = list(model.parameters())
    if how == "left out":
        parameters = parameters[:2]
    elif how == "stale":
        model[2] = nn.Linear(32, 32)
    elif how == "frozen":
        for p in parameters[2:]:
            p.requires_grad_(False)
        model[0].weight.requires_grad_(False)
    elif how == "list":
        model.extra = [nn.Linear(4, 4)]
    return model, parameters


@pytest.mark.parametrize(
    ("how", "kind"),
    [("left out", "unowned"), ("stale", "foreign"), ("frozen", "frozen"), ("list", "unregistered"), ("whole", None)],
)
def test_what_is_not_trained_is_named_at_the_first_row(how: str, kind: str | None, tmp_path: Path) -> None:
    model, parameters = net(how)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    data = digits()
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(17):
            loss = F.cross_entropy(model(data.x[:32]), data.y[:32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
        found = [finding for finding in run.findings if finding.rule == "untrained_parameters"]
    assert (kind in [finding.kind for finding in found]) if kind else not found
    assert all(finding.found_step == 0 for finding in found)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        again = [finding for finding in check(dataset).findings if finding.rule == "untrained_parameters"]
    assert again == found


def test_remedies_follow_from_the_best_founded_cause() -> None:
    clip, penalty = Cause("gradient clipping", 0.95, ["seen"], [], "clip less"), Cause(PENALTY, 0.8, ["seen"])
    maybe = Cause(PENALTY, 0.2)
    assert remedy(Verdict.STALLED, False, [clip, penalty]).startswith("gradient clipping first: clip less")
    assert EXPERIMENT not in remedy(Verdict.STALLED, False, [clip, penalty])
    assert EXPERIMENT in remedy(Verdict.STALLED, False, [Cause("dead units", 0.85), penalty])
    assert remedy(Verdict.STALLED, False, [maybe]) == EXPERIMENT
    assert "delayed:auto" in remedy(Verdict.COLLAPSED, False, [penalty])
    assert "no delay will help" in remedy(Verdict.COLLAPSED, True, [penalty])


def failed(cause: str, text: str, strength: float = 0.1, verdict: str = "stalled") -> Attempt:
    made = attempt(verdict)
    return replace(made, strength=strength, diagnosis=replace(made.diagnosis, cause=cause, remedy=text))


def test_a_restart_is_spent_after_the_experiment_that_tells() -> None:
    policy = DelayedRestart()
    policy.tell(failed(PENALTY, EXPERIMENT))
    first = policy.ask()
    assert first.start
    assert first.without_penalty
    policy.tell(failed("", "", 0.0, "healthy"))
    assert policy.ask().schedule == "delayed:auto"
    other = DelayedRestart()
    other.tell(failed(PENALTY, EXPERIMENT))
    other.tell(failed("initialisation", "He first", 0.0))
    assert "fails without its penalty too" in other.ask().reason
    third = DelayedRestart()
    third.tell(failed("gradient clipping", "gradient clipping first: clip less"))
    assert not third.ask().start
    assert "the penalty is not the cause" in third.ask().reason


def test_a_penalty_that_never_came_on_is_no_success() -> None:
    learned = replace(attempt("healthy", "delayed:auto", switched_on=None), delayed=True)
    assert learned.never_penalised
    assert status_of(learned) == "never penalised"
    assert status_of(replace(learned, switched_on=40, acted=3.0)) == "learned"
    policy = DelayedRestart()
    policy.tell(learned)
    assert "never came on" in policy.ask().reason
    assert type(learned).from_dict(learned.as_dict()) == learned


def test_the_penalty_comes_on_where_the_loss_has_a_high_floor() -> None:
    """A language model that goes from 3.2 to 2.5: half of the loss never goes, and it slows down."""
    steps = 1200
    table = rows(steps, strength=0.0, fall=0.0)
    t = np.arange(steps)
    table["loss"] = np.where(t < 60, 3.18, 2.4 + 0.78 * np.exp(-(t - 60) / 90))
    judge = Judge(replace(INFO, baseline_loss=3.18, horizon=steps))
    judge.update(table)
    assert judge.escaped_step is not None
    assert judge.active_step is not None
    assert judge.escaped_step < judge.active_step < steps / 3
    assert judge.diagnosis().active_step == judge.active_step


def told(look: Any, table: dict[str, np.ndarray], info: Any, **options: float) -> list[str]:
    """The layers that a rule shows in these rows, by the checker."""
    checker = Checker(info, {look: {key: option.default for key, option in RULES[look].options.items()} | options})
    for start in range(0, len(table["step"]), 37):
        checker.update({name: values[start : start + 37] for name, values in table.items()})
    return [layer or finding.kind for finding in checker.findings for layer in finding.layers or ("",)]


def test_harm_without_failure_is_found() -> None:
    """A penalty that holds the loss up, gains taken down, an output that lost the input; and none of them elsewhere."""
    n = 300
    types = {"0": "Linear", "1": "BatchNorm1d"}
    info = replace(
        INFO, parameters=("0.weight", "1.weight"), modules=("0", "1"), module_types=types, baseline_loss=2.0,
        matrices=np.array([True, False]), penalised=np.array([True, True]),
    )  # fmt: skip
    table = rows(n, fall=0.0) | {"loss": np.full(n, 1.2), "activation_std": np.ones((n, 2))}
    table["penalty_gradient_mean_abs"] = 0.3 * table["loss_gradient_mean_abs"]
    table["weight_norm"] *= 3
    assert told("penalty_dominates", table, info) == ["dominates"]
    assert not told("penalty_dominates", table | {"loss": np.full(n, 0.2)}, info)
    assert not told("penalty_dominates", table | {"loss": np.geomspace(1.9, 0.6, n)}, info)  # not at rest
    assert not told("penalty_dominates", table, replace(info, baseline_source="guessed: x"))
    weak = {"penalty_gradient_mean_abs": 0.04 * table["loss_gradient_mean_abs"]}
    assert not told("penalty_dominates", table | weak, info)
    decoupled = replace(info, adaptive=(True,), beside=(True,))  # beside the step: against a step of 1
    assert not told("penalty_dominates", table, decoupled)
    against_1 = {"penalty_gradient_mean_abs": np.full((n, 2), 0.06)}
    assert told("penalty_dominates", table | against_1, decoupled) == ["dominates"]
    noise = np.random.default_rng(0).lognormal(0, 0.5, (n, 1))  # small batches, whose gradients and losses scatter
    few = {"loss_gradient_mean_abs": table["loss_gradient_mean_abs"] * noise * 3, "loss": 1.2 * noise[::-1, 0]}
    assert told("penalty_dominates", table | few, info) == ["dominates"]
    # Without noise both gradients are equal in the end, however weak the penalty is: it has to be high as well.
    tiny = {name: 1e-4 * table[name] for name in ("loss_gradient_mean_abs", "penalty_gradient_mean_abs")}
    assert not told("penalty_dominates", table | tiny, info)
    gains = np.stack([np.ones(n), np.exp(-np.arange(n) / 100)], axis=1)
    assert told("decayed_gains", table | {"weight_norm": gains}, info) == ["1.weight"]
    assert not told("decayed_gains", table | {"weight_norm": gains[:, ::-1].copy()}, info)
    assert not told("decayed_gains", table | {"weight_norm": gains}, replace(info, penalised=np.array([True, False])))
    lost = {"activation_std": np.stack([np.ones(n), np.exp(-np.arange(n) / 50)], axis=1)}
    assert not told("lost_input", table | lost, info)  # what a normalisation puts out is as large as its gain
    info = replace(info, module_types={})
    assert told("lost_input", table | lost, info) == ["1"]
    crushed = {"weight_norm": np.exp(-np.arange(n) / 50)[:, None] * np.ones(2)}
    assert not told("lost_input", table | lost | crushed, info)
    assert not told("lost_input", table, info)


class Functional(nn.Module):
    """Whose ReLU is no module, so that no record holds its zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([64, 32, 32, 32, 10]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def test_a_penalty_is_not_blamed_for_units_that_a_large_step_killed(tmp_path: Path) -> None:
    """The gradient is exactly 0 from the first steps on; the decay takes weights down that nothing holds any more."""
    torch.manual_seed(0)
    data, model = digits(), Functional()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3, weight_decay=0.03)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(300):
            batch = torch.randint(0, len(data.x), (32,))
            loss = F.cross_entropy(model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    found = run.verdict
    assert found.failed
    assert found.cause == "learning rate too high", found.causes
    assert {"gradients of exactly 0", PENALTY} <= {cause["cause"] for cause in found.causes}
    assert "without the penalty" not in found.remedy, found.causes


@pytest.mark.parametrize("kind", ["mse", "l1", "weights"])
def test_targets_far_from_0_are_told_from_weights_that_are_too_large(kind: str, tmp_path: Path) -> None:
    """Targets of 100 ± 10, and a rate at which the output takes for ever to get there."""
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = 10 * x[:, :1] + (0 if kind == "weights" else 100)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    if kind == "weights":
        nn.init.normal_(model[2].weight, 0, 100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(300):
            batch = torch.randint(0, 512, (32,))
            loss = (F.l1_loss if kind == "l1" else F.mse_loss)(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    causes = {cause["cause"]: cause for cause in run.verdict.causes}
    assert run.verdict.failed or kind == "weights"
    assert ("targets far from 0" in causes) == (kind != "weights")
    if kind != "weights":
        assert run.verdict.cause == "targets far from 0"
        assert "mean 0 and variance 1" in run.verdict.remedy
        advice = [finding.suggestion for finding in run.findings if finding.rule == "poor_initialisation"]
        assert advice and all("class frequencies" not in text for text in advice)


@pytest.mark.parametrize("learns", [True, False])
def test_a_net_learns_though_another_term_takes_up_what_it_gains(learns: bool, tmp_path: Path) -> None:
    """The logged loss stays at its baseline; the part that a loss function of torch gave tells."""
    torch.manual_seed(0)
    data, model = digits(), Coded()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3 if learns else 1e-7)
    x = data.x - data.x.mean(0)
    floor = x.square().mean()
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore", horizon=600) as run:
        for _ in range(600):
            batch = torch.randint(0, len(x), (64,))
            part = F.mse_loss(model(x[batch]), x[batch])
            loss = part + (floor - part.detach()).clamp(min=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    healthy = run.verdict.verdict is Verdict.HEALTHY
    assert healthy == learns, run.verdict
    assert any("its part mse_loss" in line for line in run.verdict.evidence) == learns
    assert str(gradscope.diagnose(tmp_path / "r.h5").verdict) == str(run.verdict.verdict)


def test_an_undecided_run_names_what_is_likely(tmp_path: Path) -> None:
    """It ends while the loss falls, from several times its baseline: weights that begin too large, perhaps."""
    table = rows(600, strength=0.0, fall=0.0) | {"activation_std": np.ones((600, 2))}
    table["loss"] = 2.15 + 10 * np.exp(-np.arange(600) / 120) + 0.005 * np.random.default_rng(0).normal(size=600)
    info = replace(INFO, loss_kind="cross_entropy", horizon=None, penalised=np.array([False, False]))
    judge = Judge(info)
    judge.update(table)
    found = judge.diagnosis(finished=True)
    assert found.verdict is Verdict.UNDECIDED
    assert found.remedy.startswith("perhaps initialisation first: begin with smaller weights"), found
    assert any("below it" in line for line in found.evidence)


@pytest.mark.parametrize(("apart", "verdict"), [(2.0, Verdict.HEALTHY), (0.0, Verdict.UNDECIDED)])
def test_two_calls_with_constant_targets_are_decided_where_the_loss_has_fallen(
    apart: float, verdict: Verdict, tmp_path: Path
) -> None:
    """Links that are there and links that are not, each in a call of its own, as a discriminator has it, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(300):
            there, not_there = model(torch.randn(64, 8) + apart / 2), model(torch.randn(64, 8) - apart / 2)
            loss = F.binary_cross_entropy_with_logits(there, torch.ones(64, 1))
            loss = loss + F.binary_cross_entropy_with_logits(not_there, torch.zeros(64, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    assert run.verdict.verdict is verdict, run.verdict
    assert any("guessed" in line for line in run.verdict.evidence)


def test_a_run_that_learns_with_a_part_of_its_weights_is_not_told_that_nothing_is_needed() -> None:
    table = rows(300, strength=0.0, fall=0.0) | {"activation_std": np.ones((300, 2))}
    table["loss"] = np.linspace(2.3, 1.2, 300)
    free = replace(
        INFO, penalised=np.array([False, False]), horizon=300, matrices=np.array([True, True]), frozen=np.zeros(2, bool)
    )
    for left_out, said in (([False, True], "not left out on purpose"), ([False, False], "none needed")):
        for sizes in ([10.0, 100.0], [100.0, 10.0]):
            judge = Judge(replace(free, unowned=np.array(left_out), numel=np.array(sizes)))
            judge.update(table)
            found = judge.diagnosis(finished=True)
            assert found.verdict is Verdict.HEALTHY
            most = sizes[1] > sizes[0]
            assert (said if most else "none needed") in found.remedy
