"""What a script does that is hardly meant, what shrinks weights unseen, and findings that are over or never were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from gradscope import Verdict
from gradscope.diagnosis.causes import ranked
from gradscope.diagnosis.circumstances import Circumstances, Facts
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.rules.catalogue import RULES
from gradscope.diagnosis.rules.checker import Checker
from gradscope.diagnosis.rules.finding import Finding
from gradscope.diagnosis.rules.post_hoc import check
from gradscope.recorder.listeners.scaled_weights import Matrix
from gradscope.run_info import RunInfo
from tests.helpers.shrinking_rows import INFO, look, rows

NO_PENALTY = replace(INFO, penalised=np.array([False, False]), matrices=np.array([True, True]),
                     grids=np.array([True, True]), frozen=np.array([False, False]))  # fmt: skip


def found(rule: str, table: dict[str, np.ndarray], info: RunInfo, losses: dict[int, float] | None = None,
          **options: float) -> list[Finding]:  # fmt: skip
    """What one rule finds, the rows cut into pieces."""
    chosen = {rule: {key: option.default for key, option in RULES[rule].options.items()} | options}
    checker = Checker(info, chosen, losses)
    for start in range(0, len(table["step"]), 37):
        checker.update({name: values[start : start + 37] for name, values in table.items()})
    return checker.findings


def trained(
    run: gradscope.Recording,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    between: Callable[[int], object] = lambda step: None,
    inputs: tuple[int, int] = (16, 6),
) -> None:
    """A plain loop; ``between`` is what the script does to the weights after each step."""
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        x = torch.randn(inputs, dtype=dtype)
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            between(step)
        run.log(loss=loss)


class SoftmaxInside(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def record(
    path: Path,
    model: nn.Module,
    clear: Callable[[torch.optim.Optimizer, int], None],
    loss_of: Callable[..., Tensor] = F.cross_entropy,
    steps: int = 20,
    every: int = 1,
) -> list[Finding]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradscope.record(model, optimizer, path, on_failure="ignore", every=every) as run:
        for step in range(steps):
            x = torch.randn(16, 6)
            loss = loss_of(model(x), x[:, :3].argmax(1))
            clear(optimizer, step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            run.log(loss=loss)
    again = check(gradscope.open_run(path)).findings
    assert again == run.findings
    return [finding for finding in again if finding.rule == "slips"]


@pytest.mark.parametrize(
    ("clear", "kinds"),
    [
        (lambda o, step: o.zero_grad(), []),
        (lambda o, step: o.zero_grad(set_to_none=False), []),
        (lambda o, step: step % 4 or o.zero_grad(), []),
        (lambda o, step: None, ["not cleared"]),
    ],
)
@pytest.mark.parametrize("every", [1, 3])
def test_gradients_that_are_never_cleared_are_named(
    clear: Callable[..., None], kinds: list[str], every: int, tmp_path: Path
) -> None:
    told = record(tmp_path / "r.h5", nn.Linear(6, 3), clear, every=every, steps=20 * every)
    assert [finding.kind for finding in told] == kinds
    assert all(finding.found_step == 0 for finding in told)


def test_passes_of_another_optimizer_are_no_slip(tmp_path: Path) -> None:
    """The generator's pass adds to the discriminator's gradients, which are cleared before its own."""
    torch.manual_seed(0)
    g, d = nn.Linear(2, 4), nn.Linear(4, 1)
    model = nn.ModuleList([g, d])
    both = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (g, d)]
    with gradscope.record(model, both, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(20):
            for part, sign in ((1, 1.0), (0, -1.0)):
                loss = sign * d(g(torch.randn(8, 2))).mean()
                both[part].zero_grad()
                loss.backward()
                both[part].step()
            run.log(loss=loss)
    assert not [finding for finding in run.findings if finding.rule == "slips"]


@pytest.mark.parametrize(
    ("model", "loss_of", "twice"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)), F.cross_entropy, True),
        (lambda: SoftmaxInside(6, 3), F.cross_entropy, True),
        (lambda: SoftmaxInside(6, 3), F.nll_loss, True),
        (lambda: nn.Linear(6, 3), F.cross_entropy, False),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1)), F.nll_loss, False),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()), F.cross_entropy, False),
    ],
)
def test_a_softmax_before_the_loss_is_named_wherever_it_stands(
    model: Callable[[], nn.Module], loss_of: Callable[..., Tensor], twice: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    told = record(tmp_path / "r.h5", model(), lambda o, step: o.zero_grad(), loss_of)
    assert [finding.kind for finding in told] == (["twice"] if twice else [])


@pytest.mark.parametrize(
    ("field", "cause"),
    [({"never_cleared": True}, "gradients never cleared"), ({"probabilities": True}, "softmax twice")],
)
def test_a_run_that_ends_undecided_is_told_what_is_known(field: dict[str, bool], cause: str) -> None:
    """The loss still falls at the end: no verdict, and the remedy all the same."""
    table = rows(300, strength=0.0, fall=0.0) | {"loss": 2.3 - 2e-4 * np.arange(300)}
    judge = Judge(replace(NO_PENALTY, horizon=None, **field))
    judge.update(table)
    told = judge.diagnosis(finished=True)
    assert told.verdict is Verdict.UNDECIDED
    assert told.remedy.startswith(f"{cause} first")
    assert "ended while the loss was falling" in told.evidence[0]


def test_a_rate_that_went_to_0_is_the_cause() -> None:
    table = rows(400, strength=0.0, fall=0.0)
    table["learning_rate"] = np.where(np.arange(400) < 60, 0.1, 1e-6)[:, None]
    assert [f.kind for f in found("slips", table, NO_PENALTY)] == ["rate gone"]
    assert not found("slips", table | {"loss": 2.3 * np.exp(-np.arange(400) / 30)}, NO_PENALTY)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(400) / 399))
    assert not found("slips", table | {"learning_rate": cosine[:, None]}, NO_PENALTY)
    judge = Judge(replace(NO_PENALTY, horizon=400))
    judge.update(table)
    assert judge.diagnosis(finished=True).cause == "learning rate that went to 0"


def test_weights_that_shrink_unseen() -> None:
    """A term of the loss, or the script itself, crushes the weights: no penalty that is known acts."""
    table = rows(400, strength=0.0)
    table["penalty_gradient_mean_abs"] = np.zeros((400, 2))
    [told] = found("undeclared_penalty", table, NO_PENALTY)
    assert told.layers == ("0.weight", "2.weight")
    assert "a term of the loss (record(penalty=…)); leave what a script does to weight_decay" in told.suggestion
    assert not found("undeclared_penalty", table, replace(NO_PENALTY, penalised=np.array([True, True])))
    assert not found("undeclared_penalty", rows(400, fall=0.0), NO_PENALTY)
    norms = {"module_types": {"0": "Linear", "2": "BatchNorm1d"}, "matrices": np.array([True, False])}
    [gains] = found("undeclared_penalty", table, replace(NO_PENALTY, **norms))
    assert "2.weight" in gains.layers
    judge = Judge(replace(NO_PENALTY, horizon=400))
    judge.update(table)
    end = judge.diagnosis(finished=True)
    assert end.cause == "a penalty that is not declared"
    assert not any("did not collapse" in line for line in end.evidence)


def _swap(model: nn.Module, step: int, kept: dict[str, Tensor]) -> None:
    """An average is put in their place."""
    for name, parameter in model.named_parameters():
        average = kept.setdefault(name, parameter.clone())
        average.lerp_(parameter, 0.1)
        parameter.copy_(average)


BETWEEN: dict[str, tuple[Callable[[nn.Module, int, dict[str, Tensor]], object], float]] = {
    "times": (lambda m, step, kept: [p.mul_(0.99) for p in m.parameters()], 0.01),
    "times, past the counters": (lambda m, step, kept: [p.data.mul_(0.99) for p in m.parameters()], 0.01),
    "a rate that warms up": (
        lambda m, step, kept: [p.mul_(1 - 1e-3 * min(step + 9, 16)) for p in m.parameters()],
        0.0149,
    ),
    "nothing": (lambda m, step, kept: None, 0.0),
    "an average": (_swap, 0.0),
    "a clamp": (lambda m, step, kept: [p.clamp_(-0.05, 0.05) for p in m.parameters()], 0.0),
    "rows of norm 1": (lambda m, step, kept: m[0].weight.div_(m[0].weight.norm(dim=1, keepdim=True)), 0.0),
    "now and then": (lambda m, step, kept: step % 4 or [p.mul_(0.99) for p in m.parameters()], 0.0),
    "larger": (lambda m, step, kept: [p.mul_(1.001) for p in m.parameters()], 0.0),
}


@pytest.mark.parametrize("preset", ["cheap", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BETWEEN)
def test_a_decay_by_hand_is_seen_in_the_first_steps(name: str, dtype: torch.dtype, preset: str, tmp_path: Path) -> None:
    """An optimizer may hold the weights against it, so that they do not shrink."""
    change, share = BETWEEN[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kept: dict[str, Tensor] = {}
    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, preset=preset, on_failure="ignore") as run:
        trained(run, model, optimizer, 140, lambda step: change(model, step, kept))
    dataset = gradscope.open_run(path)
    capture = json.loads(dataset.attrs["capture"])
    assert capture.get("weights_scaled_by_hand", 0.0) == pytest.approx(share, rel=0.15)
    again = [f for f in check(dataset).findings if f.kind == "by hand"]
    assert again == [f for f in run.findings if f.kind == "by hand"]
    assert bool(again) == (share > 0)


@pytest.mark.parametrize("held", [True, False])
def test_a_norm_that_is_held_is_no_decay(held: bool, tmp_path: Path) -> None:
    """Steps before a normalisation only lengthen the weights; a fixed norm takes that back, as a factor below 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model[0].weight
    norm = weight.norm().item()
    path = tmp_path / "r.h5"
    factors = []

    def scale(step: int) -> None:
        factors.append(norm / weight.norm().item() if held else 1 - 3e-5)
        weight.mul_(factors[-1])

    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        trained(run, model, optimizer, 20, scale, (64, 32))
    shares = [1 - factor for factor in factors[:12]]
    assert 1e-6 < min(shares) < max(shares) < 2 * min(shares) or not held
    seen = json.loads(gradscope.open_run(path).attrs["capture"]).get("weights_scaled_by_hand", 0.0)
    assert seen == pytest.approx(0.0 if held else 3e-5, rel=0.1)


@pytest.mark.parametrize("fails", ["begins", "stepped", "share"])
@pytest.mark.parametrize("every", [1, 2])
def test_an_error_of_that_look_takes_no_row_with_it(
    fails: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named once, and the looking ends."""
    calls = []

    def broken(self: Matrix) -> None:
        calls.append(self)
        raise RuntimeError("out of room")

    monkeypatch.setattr(Matrix, fails, property(broken) if fails == "share" else broken)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore", every=every) as run:
        trained(run, model, optimizer, 20)
    dataset = gradscope.open_run(path)
    assert len(calls) == 1
    assert json.loads(dataset.attrs["capture"])["not_read"] == {"weights_scaled_by_hand": "RuntimeError: out of room"}
    assert len(dataset["step"]) == 20 / every
    assert np.isfinite(dataset["weight_norm"].values).all()


class Shrinking(torch.optim.Optimizer):
    """Plain descent, with a decay of its own that no group tells."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=0.1).mul_(0.995)


def test_decays_of_script_and_optimizer_add_up_live_as_after_it(tmp_path: Path) -> None:
    """Both are said, with advice that takes nothing off a gradient that never held it."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    optimizer = Shrinking(model.parameters())
    path = tmp_path / "r.h5"
    with (
        pytest.warns(UserWarning, match="takes the share 0.005") as told,
        gradscope.record(model, optimizer, path, on_failure="ignore") as run,
    ):
        trained(run, model, optimizer, 80, lambda step: model.weight.mul_(0.99))
    [live] = [f for f in run.findings if f.kind == "by hand"]
    assert [f for f in check(gradscope.open_run(path)).findings if f.kind == "by hand"] == [live]
    assert "take 0.015 of the weights" in live.sentence
    for said in (live.suggestion, next(str(w.message) for w in told if "takes the share" in str(w.message))):
        assert "weight_decay" in said
        assert "penalty=" not in said


def test_what_gradscope_shrinks_itself_is_no_decay_by_hand(tmp_path: Path) -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradscope.regularize(optimizer, gradscope.L2(), gradscope.Constant(0.05), decoupled=True)
    path = tmp_path / "r.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        trained(run, model, optimizer, 20)
    assert "weights_scaled_by_hand" not in json.loads(gradscope.open_run(path).attrs["capture"])


def test_a_bias_that_begins_at_0_does_not_explode() -> None:
    table = rows(200, fall=0.0)
    grown = np.ones((200, 2))
    grown[:, 1] = 1e-5 * np.arange(200) ** 1.5 + 1e-9
    assert not found("exploding_tensor", table | {"weight_norm": grown}, INFO)
    grown[100:, 1] = 1e4
    assert [f.kind for f in found("exploding_tensor", table | {"weight_norm": grown}, INFO)] == ["growing"]


@pytest.mark.parametrize("at", [59, 58])
def test_the_last_batch_of_an_epoch_is_no_spike(at: int) -> None:
    """Twenty steps an epoch; the last one holds a rest of two samples."""
    table = rows(200, fall=0.0) | {"epoch": np.arange(200) // 20}
    table["loss"] = 2.3 + 0.01 * np.sin(np.arange(200.0))
    table["loss"][at] = 9.0
    assert bool(found("loss_spikes", table, INFO)) == (at == 58)


@pytest.mark.parametrize(("losses", "spike"), [([0.8], False), ([1.3], False), ([0.8, 1.7], True), ([7.0], True)])
def test_one_sample_that_a_net_gets_wrong_is_no_spike(losses: list[float], spike: bool) -> None:
    """Of a small batch, where the loss is near 0."""
    table = rows(200, fall=0.0)
    table["loss"] = np.where(np.arange(200) < 20, 0.7, 0.03) + 0.01 * np.sin(np.arange(200.0))
    table["loss"][120 : 120 + len(losses)] = losses
    [*told] = found("loss_spikes", table, INFO)
    assert [f.found_step for f in told] == ([120 + len(losses) - 1] if spike else [])


def test_a_finding_is_over_when_it_shows_no_more() -> None:
    """Validation rises, and falls in the end: a net that groks. Training goes on falling."""
    table = rows(200, fall=0.0) | {"epoch": np.arange(200) // 10, "loss": np.geomspace(2.3, 0.01, 200)}
    rising = {k: 1.0 + 0.2 * k for k in range(10)}
    [gap] = found("overfitting_gap", table, INFO, rising)
    assert gap.over_step is None
    assert gap.now == gap.sentence
    groks = rising | dict.fromkeys(range(10, 20), 0.01)
    [gap] = found("overfitting_gap", table, INFO, groks)
    assert gap.over_step == 110
    assert gap.now.endswith("over since step 110")
    back = groks | dict.fromkeys(range(16, 20), 5.0)
    [gap] = found("overfitting_gap", table, INFO, back)
    assert gap.over_step is None


def test_what_was_learned_by_heart_is_said() -> None:
    table = rows(200, fall=0.0) | {"epoch": np.arange(200) // 10, "loss": np.geomspace(2.3, 0.5, 200)}
    chance = found("overfitting_gap", table, INFO, dict.fromkeys(range(20), 2.31))
    assert "chance" in [finding.kind for finding in chance]
    better = found("overfitting_gap", table, INFO, {k: 2.31 if k else 1.9 for k in range(20)})
    assert "chance" not in [finding.kind for finding in better]


def test_gradients_that_a_collapse_has_taken_are_not_found_one_by_one() -> None:
    table = rows(400, fall=0.02)
    gradient = np.where(np.arange(400)[:, None] < [200, 260], 1e-3, 0.0)
    info = replace(INFO, matrices=np.array([True, True]), frozen=np.array([False, False]))
    assert not found("all_zero_gradients", table | {"loss_gradient_max_abs": gradient}, info)
    dead = rows(400, fall=0.0) | {"loss_gradient_max_abs": gradient}
    assert len(found("all_zero_gradients", dead, info)) == 2


def first_cause(info: RunInfo = INFO, table: dict[str, np.ndarray] | None = None, **facts: object) -> str:
    nothing = {
        "clip": 1.0,
        "clipped": 0.0,
        "moves": 0.01,
        "moves_clipped": 0.01,
        "moves_first": 0.01,
        "signal": np.array([1.0, 1.0, 1.0]),
    }
    nothing |= {
        "size": np.ones(3),
        "flow": None,
        "dead": {},
        "stopped": {},
        "faded": {},
        "silent": [],
        "rate_gone": 0.0,
    }
    given = Facts(**(nothing | {"shrunk": {}, "rate": 0.1, "zeros": 0.0} | facts))
    return ranked(look(rows(200) if table is None else table, info), given)[0].name


def test_what_came_first_is_the_cause() -> None:
    """Units that die after huge steps, or by inputs of a thousand; a penalty that came when they were dead already."""
    free = replace(INFO, penalised=np.array([False, False]))
    still = rows(200, fall=0.0)
    assert first_cause() == "penalty"
    assert first_cause(dead={"0": 3}) == "dead units"
    assert first_cause(dead={"0": 150}) == "penalty"
    assert first_cause(free, still, dead={"0": 12}) == "dead units"
    assert first_cause(free, still, stopped={"0.weight": 12}) == "gradients of exactly 0"
    assert first_cause(stopped={"0.weight": 3}) == "gradients of exactly 0"
    assert first_cause(stopped={"0.weight": 150}) == "penalty"
    assert first_cause(free, still, dead={"0": 12}, moves_clipped=0.5) == "learning rate too high"
    assert first_cause(free, still, dead={"0": 0}, moves_clipped=0.5) == "dead units"
    assert first_cause(free, still, dead={"0": 12}, moves_clipped=5.0, size=np.array([2e4, 1.0, 1.0])) == "input scale"
    assert first_cause(free, still, signal=np.array([1e-7, 1e-7, 1e-7])) == "inputs that do not vary"
    assert first_cause(free, still, signal=np.array([0.01, 0.5, 1.0])) == "input scale"
    assert first_cause(free, still, signal=np.array([0.04, 0.5, 1.0])) == "input scale"
    assert first_cause(free, still, signal=np.array([0.2, 0.5, 1.0])) != "input scale"
    assert first_cause(free, still, signal=np.array([1.0, 0.8, 0.0]), moves=0.0) == "an output that cannot vary"
    assert first_cause(free, still, dead={"0": 0}, zeros=1.0, moves_clipped=np.inf) == "initialisation"
    assert first_cause(free, still, moves=0.0, rate=0.0) == "learning rate too low"


def test_a_run_that_may_learn_late_is_not_called_before_its_end() -> None:
    """Inputs on a tiny scale: the weights fall, and the loss is at its baseline for a long time."""
    for share, called in ((0.5, True), (0.01, False)):
        table = rows(300) | {"activation_std": share * np.exp(-0.005 * np.arange(300.0))[:, None] * np.ones(2)}
        judge = Judge(replace(INFO, horizon=1000))
        judge.update(table)
        assert judge.diagnosis().failed == called
        judge = Judge(replace(INFO, horizon=300))
        judge.update(table)
        assert judge.diagnosis(finished=True).cause == ("penalty" if called else "input scale")


def test_outputs_that_the_steps_made_large_are_no_large_inputs() -> None:
    grows = 1e4 * (np.arange(40.0) > 5)[:, None] * np.ones(2) + 1
    for size, large in ((grows, False), (grows + 100, True)):
        seen = Circumstances(INFO, 16)
        for start in range(0, 40, 7):
            seen.see({k: v[start : start + 7] for k, v in (rows(40) | {"activation_mean_abs": size}).items()})
        assert seen.facts().large_inputs == large


def test_an_output_that_never_depended_on_the_input_has_not_lost_it() -> None:
    table = rows(300, fall=0.0) | {"activation_mean_abs": np.ones((300, 2))}
    fades = np.exp(-np.arange(300.0) / 40)[:, None] * np.ones(2)
    lost = table | {"activation_std": fades, "activation_zero_fraction": np.zeros((300, 2))}
    assert len(found("lost_input", lost, INFO)) == 1
    assert not found("lost_input", lost | {"activation_std": 1e-3 * fades}, INFO)
    assert not found("lost_input", lost | {"activation_zero_fraction": np.ones((300, 2))}, INFO)
