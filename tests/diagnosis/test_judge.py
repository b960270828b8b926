"""The judge: early and right on real runs, the same live and post hoc, patient with late bloomers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import gradscope
from gradscope import InputError, Verdict
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.probability import Model, shipped
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.diagnosis.series import network_series
from gradscope.quantities import JUDGED
from gradscope.run_info import RunInfo
from tests.helpers.loops import mlp, recorded, train


def load(path: Path) -> xr.Dataset:
    with gradscope.open_run(path) as dataset:
        return dataset.load()


def rows_of(dataset: xr.Dataset, start: int, stop: int) -> dict[str, np.ndarray]:
    part = dataset.isel(step=slice(start, stop))
    return {name: part[name].values for name in ("step", *JUDGED) if name in part.variables}


def info_of(dataset: xr.Dataset) -> RunInfo:
    return RunInfo.from_record(dataset["parameter"].values, dataset, dataset.attrs)


def test_a_collapse_is_decided_in_the_first_tenth(collapsed_run: Path) -> None:
    dataset = load(collapsed_run)
    found = gradscope.diagnose(dataset)
    assert found.verdict is Verdict.COLLAPSED
    assert found.failed
    assert found.onset_step == 0
    assert found.decided_step is not None
    assert found.decided_step < 0.1 * dataset.sizes["step"]
    assert found.layers
    assert all(name.endswith("weight") for name in found.layers)
    assert any("radial balance" in line for line in found.evidence)
    assert "delayed:auto" in found.remedy


def test_a_healthy_run_is_healthy(healthy_run: Path) -> None:
    found = gradscope.diagnose(load(healthy_run))
    assert found.verdict is Verdict.HEALTHY
    assert not found.failed
    assert found.active_step is not None
    assert 0 < found.active_step < 500


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_verdict_does_not_depend_on_the_blocks(collapsed_run: Path, size: int) -> None:
    dataset = load(collapsed_run)
    judge = Judge(info_of(dataset))
    for start in range(0, 200, size):
        judge.update(rows_of(dataset, start, min(start + size, 200)))
    at_once = Judge(info_of(dataset))
    at_once.update(rows_of(dataset, 0, 200))
    assert judge.diagnosis() == at_once.diagnosis()
    assert judge.diagnosis().verdict is Verdict.COLLAPSED


def test_live_and_post_hoc_agree(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1.0)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        train(model, optimizer, 120, run)
        live = run.verdict
    assert live.verdict is Verdict.COLLAPSED
    assert run.verdict == gradscope.diagnose(load(tmp_path / "r.h5")) == live


def test_a_verdict_stays(collapsed_run: Path) -> None:
    """Once failed always failed, on every prefix of a growing record; undecided before."""
    dataset = load(collapsed_run)
    judge = Judge(info_of(dataset))
    verdicts = []
    for start in range(0, dataset.sizes["step"], 5):
        judge.update(rows_of(dataset, start, start + 5))
        verdicts.append(judge.diagnosis().verdict)
    changes = [v for before, v in pairwise(verdicts) if v is not before]
    assert changes == [Verdict.COLLAPSED]
    assert verdicts[0] is Verdict.UNDECIDED


def test_a_strength_that_the_loss_moves_counts_once_it_stands_still(collapsed_run: Path) -> None:
    """Advance L2 lets it rise a hundredfold, crushes the weights, takes it back, and may learn then."""
    dataset = load(collapsed_run)
    steered = replace(info_of(dataset), steered=True)
    rows = rows_of(dataset, 0, 400)
    moving = rows | {"strength": rows["strength"] * (1 + 1e-3 * (rows["step"] // 20))[:, None]}
    for info, seen, verdict in (
        (steered, rows, Verdict.COLLAPSED), (steered, moving, Verdict.UNDECIDED),
        (info_of(dataset), moving, Verdict.COLLAPSED),
    ):  # fmt: skip
        judge = Judge(info)
        judge.update(seen)
        assert judge.diagnosis().verdict is verdict


@pytest.mark.parametrize(
    ("schedule", "steered"), [(gradscope.AdvanceL2(0.1), True), (gradscope.Ramp(0.1, epochs=5), False)]
)
def test_a_record_tells_whether_the_loss_moves_the_strength(
    schedule: gradscope.Schedule, steered: bool, tmp_path: Path
) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradscope.regularize(optimizer, gradscope.L2(), schedule)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", steps_per_epoch=2) as run:
        train(model, optimizer, 3, run)
    assert info_of(load(tmp_path / "r.h5")).steered is steered


@pytest.mark.parametrize("drop", [["weight_gradient_dot"], ["weight_norm"], ["weight_gradient_dot", "nonfinite_count"]])
def test_part_of_the_quantities_is_enough(collapsed_run: Path, drop: list[str]) -> None:
    found = gradscope.diagnose(load(collapsed_run).drop_vars(drop))
    assert found.verdict is Verdict.COLLAPSED
    assert any("could not be used" in line for line in found.evidence)


@pytest.mark.parametrize("every", [1, 10])
def test_loss_may_be_logged_sparsely(collapsed_run: Path, healthy_run: Path, every: int) -> None:
    for path, verdict in ((collapsed_run, Verdict.COLLAPSED), (healthy_run, Verdict.HEALTHY)):
        dataset = load(path)
        dataset["loss"] = dataset["loss"].where(dataset["step"] % every == 0)
        assert gradscope.diagnose(dataset).verdict is verdict


def test_sparse_records_are_judged_too(collapsed_run: Path, healthy_run: Path) -> None:
    assert gradscope.diagnose(load(collapsed_run).isel(step=slice(None, None, 4))).verdict is Verdict.COLLAPSED
    assert gradscope.diagnose(load(healthy_run).isel(step=slice(None, None, 4))).verdict is Verdict.HEALTHY


def test_without_a_loss_nothing_is_guessed(healthy_run: Path) -> None:
    found = gradscope.diagnose(load(healthy_run).drop_vars("loss"))
    assert found.verdict is Verdict.UNDECIDED
    assert "call Recording.log(loss=…)" in found.evidence[0]


# -- made-up runs whose outcome is known by construction --------------------------------------------


def synthetic(steps: int, loss, weight, gradient, pull, strength: float = 0.05, **attrs: float) -> xr.Dataset:
    """One layer of 1,000 weights, SGD without momentum, with these curves over steps."""
    t = np.arange(steps, dtype=np.float64)
    w, g = weight(t), gradient(t)
    column = lambda values: (("step", "parameter"), np.asarray(values)[:, None])  # noqa: E731
    dataset = xr.Dataset(
        {
            "loss": ("step", loss(t)),
            "learning_rate": (("step", "group"), np.full((steps, 1), 0.1)),
            "loss_gradient_mean_abs": column(g),
            "penalty_gradient_mean_abs": column(2 * strength * w),
            "weight_mean_abs": column(w),
            "weight_norm": column(w * math.sqrt(1000)),
            "weight_gradient_dot": column(-pull(t) * 2 * strength * w**2 * 1000),
            "numel": ("parameter", [1000]),
            "penalised": ("parameter", [strength > 0]),
            "group": (("parameter",), [0]),
        },
        coords={"step": t.astype(int), "parameter": ["w"]},
    )
    groups = '{"groups": [{"momentum": 0.0}]}'
    dataset.attrs = {
        "status": "finished", "penalty": "l2", "config": groups,
        "capture": '{"baseline_loss": "given"}', "baseline_loss": 2.3, "horizon": -1,
    } | attrs  # fmt: skip
    return dataset


RNG = np.random.default_rng(0)


def flat(t: np.ndarray) -> np.ndarray:
    return 2.3 + 0.02 * RNG.standard_normal(len(t))


def falling(t: np.ndarray) -> np.ndarray:
    return 0.1 * np.exp(-0.01 * t)


def steady(t: np.ndarray) -> np.ndarray:
    return np.full(len(t), 0.1)


def blooming(t: np.ndarray) -> np.ndarray:
    return np.where(t < 1500, flat(t), 2.3 * np.exp(-(t - 1500) / 100))


def test_collapse_by_construction() -> None:
    found = gradscope.diagnose(synthetic(2000, flat, falling, lambda t: falling(t) ** 3, lambda t: 0 * t))
    assert found.verdict is Verdict.COLLAPSED
    assert found.decided_step is not None
    assert 100 <= found.decided_step < 200  # e-folding time 100 steps


@dataclass(frozen=True)
class Says(Model):
    """A model that says the same of every look."""

    says: float = math.nan

    def of(self, look: RunPrefix) -> float:
        return self.says


def said(dataset: xr.Dataset, says: float) -> Judge:
    judge = Judge(info_of(dataset), model=Says(shipped().table, shipped().threshold, says))
    judge.update(rows_of(dataset, 0, dataset.sizes["step"]))
    return judge


@pytest.mark.parametrize("says", [0.05, 0.2, math.nan])
@pytest.mark.parametrize("output", ["follows its input", "constant"])
def test_a_collapse_that_all_signals_speak_against_is_not_called(says: float, output: str) -> None:
    """VGG-11 under L1 on CIFAR-10 was called collapsed at p = .009, while its loss fell, and learned."""
    dataset = synthetic(400, flat, falling, lambda t: falling(t) ** 3, lambda t: 0 * t)
    if output == "constant":
        dataset["activation_std"] = ("step", "module"), np.where(np.arange(400) < 50, 1, 1e-9)[:, None] * np.ones(2)
        dataset["activation_mean_abs"] = ("step", "module"), np.ones((400, 2))
        dataset = dataset.assign_coords(module=["0", "1"])
    assert (said(dataset, says).failure is None) == (says == 0.05 and output != "constant")


@pytest.mark.parametrize("strength", [0.0, 0.0001])
def test_a_late_bloomer_is_never_called_failed(strength: float) -> None:
    dataset = synthetic(2000, blooming, steady, steady, lambda t: 0 * t, strength)
    judge = judge_record(dataset.isel(step=slice(0, 1500)))
    assert judge.diagnosis().verdict is Verdict.UNDECIDED
    assert gradscope.diagnose(dataset).verdict is Verdict.HEALTHY


def test_shrinking_weights_with_growing_gradients_are_no_collapse() -> None:
    """A normalised net: the penalty shrinks the weights, and the gradients grow as they do."""
    dataset = synthetic(2000, blooming, falling, lambda t: 1e-3 / falling(t), lambda t: 0 * t)
    assert judge_record(dataset.isel(step=slice(0, 1400))).diagnosis().verdict is Verdict.UNDECIDED


def test_a_rising_balance_is_given_time() -> None:
    """By the rule on the weights; the signals of so steady a fall are as sure as their bar, give or take the noise."""
    dataset = synthetic(400, flat, falling, falling, lambda t: 0.004 * np.exp(t / 60))
    assert said(dataset, math.nan).diagnosis().verdict is Verdict.UNDECIDED


def test_stalled_is_said_at_the_horizon_only() -> None:
    dataset = synthetic(1000, flat, steady, steady, lambda t: 0 * t, 0.0, horizon=2000)
    assert gradscope.diagnose(dataset).verdict is Verdict.UNDECIDED
    dataset.attrs["horizon"] = 1000
    found = gradscope.diagnose(dataset)
    assert found.verdict is Verdict.STALLED
    assert found.decided_step == 999


def test_vanishing_without_a_penalty() -> None:
    tiny = synthetic(1000, flat, steady, lambda t: np.full(len(t), 1e-12), lambda t: 0 * t, 0.0)
    assert gradscope.diagnose(tiny).verdict is Verdict.VANISHING


def test_divergence() -> None:
    assert gradscope.diagnose(synthetic(1000, lambda t: 2 + t, steady, steady, steady)).verdict is Verdict.DIVERGED
    broken = synthetic(500, flat, lambda t: np.where(t < 300, 0.1, np.nan), steady, steady)
    found = gradscope.diagnose(broken)
    assert found.verdict is Verdict.DIVERGED
    assert found.onset_step == 300


def test_a_collapse_after_learning_gets_another_remedy() -> None:
    loss = lambda t: np.where(t < 500, 2.3 * np.exp(-t / 50), flat(t))  # noqa: E731
    weight = lambda t: 0.1 * np.exp(-0.01 * np.maximum(t - 300, 0))  # noqa: E731
    found = gradscope.diagnose(synthetic(2000, loss, weight, lambda t: weight(t) ** 2, lambda t: 0 * t))
    assert found.verdict is Verdict.COLLAPSED
    assert "beyond what a delay can save" in found.remedy


def test_too_short_is_undecided(tmp_path: Path) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, torch.optim.SGD(model.parameters(), lr=0.01), 20)
    assert gradscope.diagnose(dataset).verdict is Verdict.UNDECIDED


def test_not_a_record_is_said() -> None:
    with pytest.raises(InputError, match="not a gradscope record"):
        gradscope.diagnose(xr.Dataset({"x": ("step", [1.0])}))


def test_series_against_the_definitions(healthy_run: Path) -> None:
    """ρ of the network, radial balance and e-folding rate as the contract writes them."""
    dataset = load(healthy_run)
    series = network_series(rows_of(dataset, 0, 50), info_of(dataset))
    matrix = dataset["penalised"].values
    w = dataset["weight_mean_abs"].values[:50, matrix].astype(np.float64)
    numel = dataset["numel"].values[matrix]
    square = (dataset["weight_norm"].values[:50, matrix].astype(np.float64) ** 2).sum(1)
    strength, lr, momentum = 0.002, 0.03, 0.9
    np.testing.assert_allclose(series.penalty, 2 * strength * (w * numel).sum(1) / numel.sum(), rtol=1e-5)
    np.testing.assert_allclose(series.push, 2 * strength * square, rtol=1e-5)
    np.testing.assert_allclose(series.rate, 2 * lr * strength / (1 - momentum), rtol=1e-5)
    np.testing.assert_allclose(
        series.pull, -dataset["weight_gradient_dot"].values[:50, matrix].astype(np.float64).sum(1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("way", "gain"),
    [("weight_decay", 10), ("gradient", 10), ("subgradient", 10), ("loss", 10), ("decoupled", 1), ("proximal", 1)],
)
def test_momentum_multiplies_what_goes_through_the_gradient(way: str, gain: float, tmp_path: Path) -> None:
    """However a penalty of one strength is applied: the share of a weight that it alone takes away in a step."""
    model = mlp()
    decay = 0.02 if way == "weight_decay" else 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    penalty = gradscope.L2() if way in ("gradient", "decoupled") else gradscope.L1()
    penalty.proximal_step = way == "proximal"
    if way in ("gradient", "subgradient", "decoupled", "proximal"):
        gradscope.regularize(optimizer, penalty, gradscope.Constant(0.01), decoupled=way == "decoupled")
    declared = (penalty, 0.01) if way == "loss" else None
    told = pytest.warns(UserWarning, match="does not hold the declared penalty") if declared else nullcontext()
    with told, gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=declared) as run:
        live = run._live.judge.info
        train(model, optimizer, 3, run)
    dataset = load(tmp_path / "r.h5")
    assert live.beside == info_of(dataset).beside == (gain == 1,)
    matrix = dataset["penalised"].values
    r, w = (dataset[f"{name}_mean_abs"].values[:, matrix] for name in ("penalty_gradient", "weight"))
    numel = dataset["numel"].values[matrix]
    expected = gain * 0.05 * (r / w * numel).sum(1) / numel.sum()
    np.testing.assert_allclose(network_series(rows_of(dataset, 0, 3), info_of(dataset)).rate, expected, rtol=1e-5)


def test_a_judge_keeps_fewer_of_the_later_rows(monkeypatch: pytest.MonkeyPatch, healthy_run: Path) -> None:
    """Its memory grows with the logarithm of the length of a run, and blocks do not matter."""
    monkeypatch.setattr("gradscope.diagnosis.judge.MOST_ROWS", 64)
    with gradscope.open_run(healthy_run) as dataset:
        info = RunInfo.from_record(dataset["parameter"].values, dataset, dataset.attrs)
        rows = {name: dataset[name].values for name in ("step", *JUDGED) if name in dataset}
    whole, parts = Judge(info), Judge(info)
    whole.update(rows)
    for start in range(0, len(rows["step"]), 37):
        parts.update({name: values[start : start + 37] for name, values in rows.items()})
    kept = whole.series.step.astype(int).tolist()
    spaced = [*range(64), *range(64, 128, 2), *range(128, 256, 4), *range(256, 512, 8), *range(512, 1024, 16)]
    assert kept[: len(spaced)] == spaced[: len(kept)]
    assert parts.series.step.tolist() == whole.series.step.tolist()
    assert parts.active_step == whole.active_step


def test_a_path_is_as_good_as_its_dataset(tmp_path: Path) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, torch.optim.SGD(model.parameters(), 0.1), steps=80)
    assert gradscope.diagnose(tmp_path / "r.h5") == gradscope.diagnose(str(tmp_path / "r.h5"))
    assert gradscope.diagnose(tmp_path / "r.h5") == gradscope.diagnose(dataset)
    assert gradscope.open_run(dataset) is dataset
    with pytest.raises(InputError, match="there is no file"):
        gradscope.diagnose(tmp_path / "none.h5")
    with pytest.raises(InputError, match=r"expected a record, as its path or the dataset of .*; got 3"):
        gradscope.diagnose(3)  # type: ignore[arg-type]
