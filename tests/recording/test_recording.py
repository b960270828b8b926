"""`record` on real loops, against a float64 twin that recomputes every number from first principles."""

from __future__ import annotations

import copy
import gc
import json
import math
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

import gradscope
from gradscope import L1, L2, Constant, Delayed, InputError, LearningFailure, Lp, RecordExistsError, regularize
from gradscope.demo.data import digits
from gradscope.recording import LearningFailureWarning
from gradscope.store.record import Record
from gradscope.store.record_path import reserve_name
from gradscope.store.schema import BY_NAME, VARIABLES
from tests.helpers.loops import batches, convnet, mlp, recorded, train

MAKE: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.02),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.02),
}


def twin(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, penalty_of: Callable) -> list[dict]:
    """One dictionary a step: name → [P], in float64."""
    rows: list[dict] = []

    def look(step: int) -> None:
        row: dict[str, list[float]] = {}
        for w in model.parameters():
            assert w.grad is not None
            g, w64 = w.grad.detach().double(), w.detach().double()
            r = penalty_of(w64)
            values = {
                "loss_gradient_mean_abs": g.abs().mean(), "loss_gradient_norm": g.norm(),
                "loss_gradient_max_abs": g.abs().max(), "penalty_gradient_mean_abs": r.abs().mean(),
                "proportion": g.abs().mean() / (g.abs().mean() + r.abs().mean()),
                "weight_mean_abs": w64.abs().mean(), "weight_norm": w64.norm(), "weight_max_abs": w64.abs().max(),
                "weight_zero_fraction": (w64 == 0).double().mean(), "weight_gradient_dot": (w64 * g).sum(),
            }  # fmt: skip
            for name, value in values.items():
                row.setdefault(name, []).append(float(value))
        rows.append(row)

    train(model, optimizer, steps, each=look)
    return rows


def check(dataset: xr.Dataset, rows: list[dict]) -> None:
    assert dataset.sizes["step"] == len(rows)
    for name in rows[0]:
        expected = np.array([row[name] for row in rows])
        np.testing.assert_allclose(dataset[name].values, expected, rtol=2e-5, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("build", [mlp, convnet])
def test_numbers_equal_the_twin(tmp_path: Path, kind: str, build: Callable[[], nn.Module]) -> None:
    model, copy = build(), build()
    copy.load_state_dict(model.state_dict())
    rows = twin(copy, MAKE[kind](list(copy.parameters())), 40, lambda w: 0.02 * w)
    check(recorded(tmp_path / "r.h5", model, MAKE[kind](list(model.parameters())), 40), rows)


def test_groups_and_a_strength_changed_mid_run(tmp_path: Path) -> None:
    model = mlp()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD([{"params": matrices, "weight_decay": 0.1}, {"params": biases}], lr=0.05)
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        train(model, optimizer, 5, run)
        optimizer.param_groups[0]["weight_decay"] = 0.4
        optimizer.param_groups[0]["lr"] = 0.01
        train(model, optimizer, 5, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["strength"].values[[0, 9]], [[0.05, 0], [0.2, 0]], rtol=1e-6)
        np.testing.assert_allclose(dataset["learning_rate"].values[[0, 9], 0], [0.05, 0.01], rtol=1e-6)
        ratio = (dataset["penalty_gradient_mean_abs"] / dataset["weight_mean_abs"]).values
        matrix = dataset["group"].values == 0
        np.testing.assert_allclose(ratio[:5, matrix], 0.1, rtol=1e-5)
        np.testing.assert_allclose(ratio[5:, matrix], 0.4, rtol=1e-5)
        assert (ratio[:, ~matrix] == 0).all()
        assert (dataset["proportion"].values[:, ~matrix] == 1).all()
        assert dataset["penalised"].values.tolist() == matrix.tolist()
    changes = [e for e in Record(tmp_path / "r.h5").events if e["kind"] == "strength"]
    assert [e["step"] for e in changes] == [0, 5]


@pytest.mark.parametrize("penalty", [L1(), L2(), Lp(3)], ids=repr)
def test_regularize_is_seen(tmp_path: Path, penalty: gradscope.Penalty) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    regularize(optimizer, penalty, Delayed(0.03, steps=4))
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 8)
    assert dataset.attrs["penalty"] == penalty.name
    np.testing.assert_allclose(dataset["strength"].values[:, 0], [0] * 4 + [0.03] * 4, rtol=1e-6)
    assert dataset["penalised"].values.tolist() == [p.ndim > 1 for p in model.parameters()]
    weight = dataset["penalty_gradient_mean_abs"].values[-1, 0]
    assert weight > 0
    # The last row holds the weights before the last update: replay it.
    other = mlp_like(model, tmp_path, penalty)
    assert weight == pytest.approx(other, rel=1e-5)


def mlp_like(model: nn.Module, tmp_path: Path, penalty: gradscope.Penalty) -> float:
    torch.manual_seed(0)
    again = mlp()
    optimizer = torch.optim.SGD(again.parameters(), lr=0.05)
    regularize(optimizer, penalty, Delayed(0.03, steps=4))
    last: list[float] = []

    def look(step: int) -> None:
        w = next(again.parameters()).detach().double()
        last.append(float(0.03 * penalty.gradient(w).abs().mean()))

    train(again, optimizer, 8, each=look)
    return last[-1]


def test_a_penalty_inside_the_loss_is_taken_off(tmp_path: Path) -> None:
    model, strength = mlp(), 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    seen = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=(L1(), strength)) as run:
        for x, y in batches(3):
            data_loss = nn.functional.cross_entropy(model(x), y)
            pure = torch.autograd.grad(data_loss, matrices[0], retain_graph=True)[0].abs().mean().item()
            loss = data_loss + strength * sum(p.abs().sum() for p in matrices)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            seen.append(data_loss.item())
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["loss_gradient_mean_abs"].values[-1, 0] == pytest.approx(pure, rel=1e-4)
        assert dataset["penalty_gradient_mean_abs"].values[-1, 0] == pytest.approx(strength, rel=1e-5)
        np.testing.assert_allclose(dataset["loss"].values, seen, rtol=1e-5)


@pytest.mark.parametrize("preset", ["cheap", "standard", "full"])
def test_watching_changes_nothing(tmp_path: Path, preset: str) -> None:
    """Weights, losses and RNG state are bit-identical with and without the recording."""
    results = []
    for watched in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
        optimizer = MAKE["sgd"](list(model.parameters()))
        if watched:
            with gradscope.record(model, optimizer, tmp_path / "r.h5", preset=preset, on_failure="ignore") as run:
                losses = train(model, optimizer, 50, run)
        else:
            losses = train(model, optimizer, 50)
        results.append((losses, [p.detach().clone() for p in model.parameters()], torch.get_rng_state()))
    (losses, weights, state), (losses_2, weights_2, state_2) = results
    assert losses == losses_2
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_2, strict=True))
    assert torch.equal(state, state_2)


@pytest.mark.parametrize("preset", ["cheap", "standard", "full"])
def test_presets_hold_what_the_schema_says(tmp_path: Path, preset: str) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, MAKE["sgd"](list(model.parameters())), 25, preset=preset)
    expected = {v.name for v in VARIABLES if preset in v.presets}
    assert set(dataset.variables) - {"step", "parameter", "module", "bin", "unit", "loss"} == expected
    for name in expected:
        variable = dataset[name]
        assert variable.dims == BY_NAME[name].dims
        assert str(variable.dtype) == BY_NAME[name].dtype
        assert variable.attrs["long_name"] and variable.attrs["units"]


def test_full_preset_measures_updates_and_activation_gradients(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 4, preset="full")
    np.testing.assert_allclose(
        dataset["update_mean_abs"].values, 0.05 * dataset["loss_gradient_mean_abs"].values, rtol=1e-4
    )
    assert (dataset["activation_gradient_mean_abs"].values > 0).all()


def test_events_of_a_gradual_change(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    regularize(optimizer, L2(), gradscope.Ramp(0.1, steps=5))
    recorded(tmp_path / "r.h5", model, optimizer, 20)
    changes = [(e["step"], e["text"]) for e in Record(tmp_path / "r.h5").events if e["kind"] == "strength"]
    assert changes == [
        (0, "l2: weight_decay 0 (λ 0)"),
        (1, "l2: weight_decay 0.04 (λ 0.02)"),
        (6, "l2: stays at weight_decay 0.2 (λ 0.1)"),
    ]


def test_activations_are_those_of_the_recorded_step(tmp_path: Path) -> None:
    """With every=5 the forwards between two rows belong to neither."""
    model = nn.Sequential(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", every=5, preset="full"):
        for x, y in batches(11):
            out = model(x)
            seen.append(out.detach().abs().mean().item())
            optimizer.zero_grad()
            nn.functional.cross_entropy(out, y).backward()
            optimizer.step()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["activation_mean_abs"].values[:, 0], seen[::5], rtol=1e-5)


def test_every_nth_step(tmp_path: Path) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "r.h5", model, MAKE["sgd"](list(model.parameters())), 20, every=5)
    assert dataset["step"].values.tolist() == [0, 5, 10, 15]
    assert np.isfinite(dataset["loss"].values).all()


def test_log_belongs_to_the_step_of_the_latest_backward(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        for number, (x, y) in enumerate(batches(6)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            if number % 2:
                run.log(tag=number)  # before the step
            optimizer.step()
            if not number % 2:
                run.log(tag=-1.0)
                run.log(tag=number)  # after it; the last value wins
            if number >= 3:
                run.log(late=torch.tensor([float(number)]))
            loss *= 0  # what was logged is a copy
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["tag"].values.tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_array_equal(dataset["late"].values, [np.nan] * 3 + [3, 4, 5])


def test_epochs_and_their_metrics(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        for epoch in range(3):
            run.epoch(epoch)
            train(model, optimizer, 4, run)
            run.epoch(epoch, accuracy=torch.tensor(epoch / 10))
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["epoch"].values.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with gradscope.open_run(tmp_path / "r.h5", "epochs") as table:
        np.testing.assert_allclose(table["accuracy"].values, [0, 0.1, 0.2], rtol=1e-6)
    known = recorded(tmp_path / "s.h5", model, optimizer, 5, steps_per_epoch=2)
    assert known["epoch"].values.tolist() == [0, 0, 1, 1, 2]


def test_closures_are_looked_at_after_their_backward(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5"):
        for x, y in batches(3):

            def closure(x=x, y=y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                seen.append(next(model.parameters()).grad.abs().mean().item())
                return loss

            optimizer.step(closure)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["loss_gradient_mean_abs"].values[:, 0], seen, rtol=1e-5)


def test_several_optimizers_share_a_row(tmp_path: Path) -> None:
    model = mlp()
    first = torch.optim.SGD(model[0].parameters(), lr=0.05, weight_decay=0.2)
    second = torch.optim.Adam(model[2:].parameters(), lr=0.01)
    with gradscope.record(model, [first, second], tmp_path / "r.h5") as run:
        for x, y in batches(5):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            first.step()
            second.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 5
        assert np.isfinite(dataset["loss_gradient_mean_abs"].values).all()
        np.testing.assert_allclose(dataset["strength"].values[0], [0.1, 0], rtol=1e-6)
        assert dataset["group"].values.tolist() == [0, 0, 1, 1, 1, 1]


def test_unused_and_frozen_parameters(tmp_path: Path) -> None:
    model = nn.ModuleDict({"used": nn.Linear(6, 3), "unused": nn.Linear(6, 3), "frozen": nn.Linear(3, 3)})
    model["frozen"].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        for x, y in batches(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model["frozen"](model["used"](x)), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        gradient = dataset["loss_gradient_mean_abs"]
        for name, seen in (("used.weight", True), ("unused.weight", False), ("frozen.weight", False)):
            assert np.isfinite(gradient.sel(parameter=name).values).all() == seen
        assert np.isfinite(dataset["loss"].values).all()
        assert json.loads(dataset.attrs["capture"])["frozen"] == ["frozen.weight", "frozen.bias"]


def test_select_and_plain_names(tmp_path: Path) -> None:
    model = nn.Sequential(mlp())
    wrapped = nn.DataParallel(model)
    optimizer = MAKE["sgd"](list(wrapped.parameters()))
    for select in (r"0\.0\.", lambda name: name.startswith("0.0.")):
        path = tmp_path / f"{callable(select)}.h5"
        with gradscope.record(wrapped, optimizer, path, select=select):
            train(model, optimizer, 1)
        with gradscope.open_run(path) as dataset:
            assert dataset["parameter"].values.tolist() == ["0.0.weight", "0.0.bias"]


def test_close_leaves_nothing_behind(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    before = len(_global_optimizer_pre_hooks)
    for number in range(2):  # attach, detach, attach again
        run = gradscope.record(model, optimizer, tmp_path / f"{number}.h5")
        train(model, optimizer, 3, run)
        run.close()
        run.close()
    assert len(_global_optimizer_pre_hooks) == before
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(m._forward_hooks for m in model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    train(model, optimizer, 1)
    gone = weakref.ref(model)
    recording = weakref.ref(run)
    del model, optimizer, run
    gc.collect()
    assert gone() is None
    assert recording() is None


def test_on_failure(tmp_path: Path) -> None:
    """A penalty far beyond the tolerance: warned about once, or raised with the diagnosis."""

    def collapse(path: Path, on_failure: str) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1.0)
        with gradscope.record(model, optimizer, path, on_failure=on_failure) as run:
            train(model, optimizer, 200, run)

    with pytest.warns(LearningFailureWarning, match="collapsed") as caught:
        collapse(tmp_path / "warn.h5", "warn")
    assert len(caught) == 1
    with pytest.raises(LearningFailure, match="collapsed") as failure:
        collapse(tmp_path / "raise.h5", "raise")
    assert failure.value.diagnosis.failed
    with gradscope.open_run(tmp_path / "raise.h5") as dataset:
        assert dataset.attrs["status"] == "failed"
        assert dataset.sizes["step"] < 100
        assert gradscope.diagnose(dataset).verdict == "collapsed"


def test_baseline_is_estimated_and_said(tmp_path: Path) -> None:
    model = mlp()
    dataset = recorded(tmp_path / "a.h5", model, MAKE["sgd"](list(model.parameters())))
    assert dataset.attrs["baseline_loss"] == pytest.approx(math.log(3))
    assert "assumed: entropy of 3" in json.loads(dataset.attrs["capture"])["baseline_loss"]
    dataset = recorded(tmp_path / "b.h5", model, MAKE["sgd"](list(model.parameters())), baseline_loss=1.0)
    assert dataset.attrs["baseline_loss"] == 1.0
    assert json.loads(dataset.attrs["capture"])["baseline_loss"] == "given"


# -- mistakes -------------------------------------------------------------------------------------


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (nn.ReLU, {}, "has no parameters"),
        (frozen, {}, "frozen"),
        (mlp, {"every": 0}, "every is 0; expected a whole number of at least 1"),
        (mlp, {"preset": "rich"}, "preset is 'rich'; expected one of cheap, standard, full"),
        (mlp, {"on_failure": "shout"}, "on_failure is 'shout'"),
        (mlp, {"mode": "w"}, "mode is 'w'"),
        (mlp, {"select": "("}, "not a regular expression"),
        (mlp, {"select": "nothing"}, "chooses no trainable parameter"),
        (mlp, {"horizon": -5}, "horizon is -5"),
        (mlp, {"baseline_loss": math.nan}, "baseline_loss is nan"),
        (mlp, {"penalty": L2()}, "expected the penalty and its strength"),
        (mlp, {"mode": "append"}, "there is no record"),
        (mlp, {"resume_step": 3}, "resume_step goes with mode='append'"),
        (mlp, {"mode": "append", "resume_step": -1}, "resume_step is -1"),
        (mlp, {"mode": "append", "later_rows": "maybe"}, "later_rows is 'maybe'"),
    ],
)
def test_unusable_arguments_write_nothing(tmp_path: Path, build, options, message: str) -> None:
    model = build()
    parameters = list(model.parameters()) or [nn.Parameter(torch.zeros(1))]
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        gradscope.record(model, torch.optim.SGD(parameters, lr=0.1), tmp_path / "r.h5", **options)
    assert not list(tmp_path.iterdir())
    assert not any(m._forward_hooks for m in model.modules())


def test_an_existing_record_is_refused_unless_asked(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    recorded(tmp_path / "r.h5", model, optimizer, 3)
    before = (tmp_path / "r.h5").read_bytes()
    with pytest.raises(RecordExistsError, match="exists already"):
        gradscope.record(model, optimizer, tmp_path / "r.h5")
    assert (tmp_path / "r.h5").read_bytes() == before
    assert recorded(tmp_path / "r.h5", model, optimizer, 2, mode="overwrite").sizes["step"] == 2
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="replaces records only"):
        gradscope.record(model, optimizer, tmp_path / "notes.txt", mode="overwrite")
    with pytest.raises(InputError, match=r"cannot write .*: Not a directory"):
        gradscope.record(model, optimizer, tmp_path / "notes.txt" / "deeper" / "r.h5")
    with pytest.raises(InputError, match="is a folder"):
        gradscope.record(model, optimizer, tmp_path, mode="append")
    with pytest.raises(InputError, match="there is no record"):
        gradscope.record(model, optimizer, tmp_path / "none" / "r.h5", mode="append")
    assert not (tmp_path / "none").exists()


def test_missing_folders_are_made(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert recorded(tmp_path / "runs" / "deep" / "r.h5", model, optimizer, 2).sizes["step"] == 2


def test_in_a_folder_runs_are_named_by_day_and_number(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    paths = []
    for folder in (f"{tmp_path}/runs/", tmp_path / "runs", f"{tmp_path}/runs"):
        with gradscope.record(model, optimizer, folder) as run:
            train(model, optimizer, 2, run)
        paths.append(run.path)
    assert paths == [tmp_path / "runs" / f"{date.today().isoformat()}-{n}.h5" for n in (1, 2, 3)]
    assert [gradscope.open_run(path).sizes["step"] for path in paths] == [2, 2, 2]
    with pytest.raises(InputError, match="penalty"):  # what fails later leaves no file behind
        gradscope.record(model, optimizer, tmp_path / "runs", penalty="l7")  # type: ignore[arg-type]
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_processes_that_begin_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(reserve_name, [tmp_path / "runs"] * 40))
    assert len(set(paths)) == 40


def test_wrong_optimizers_and_scalars(tmp_path: Path) -> None:
    model = mlp()
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        gradscope.record(model, torch.optim.SGD(mlp().parameters(), lr=0.1), tmp_path / "r.h5")
    with pytest.raises(InputError, match=r"expected a torch.nn.Module"):
        gradscope.record("model", torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.h5")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected a torch.optim.Optimizer"):
        gradscope.record(model, [], tmp_path / "r.h5")
    with pytest.raises(InputError, match=r"expected a torch.optim.Optimizer"):
        gradscope.record(model, model, tmp_path / "r.h5")  # type: ignore[arg-type]
    with gradscope.record(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.h5") as run:
        with pytest.raises(InputError, match=r"shape \[2\]"):
            run.log(loss=torch.zeros(2))
        with pytest.raises(InputError, match="expected a number"):
            run.log(loss="low")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="uses that name itself"):
            run.log(proportion=1.0)
    with pytest.raises(InputError, match="is closed"):
        run.log(loss=1.0)


def test_nan_from_the_first_step_is_said(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for x, y in batches(30):
            loss = nn.functional.cross_entropy(model(x * float("nan")), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    assert run.verdict.verdict == "diverged"
    assert run.verdict.onset_step == 0
    assert "not finite from step 0" in run.verdict.evidence[0]


def test_the_environment_replaces_the_strength(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On parameters with more than one dimension; biases keep the script's own; the optimizer is left as it was."""
    monkeypatch.setenv("GRADSCOPE_STRENGTH", "0.05")
    monkeypatch.setenv("GRADSCOPE_OUT", str(tmp_path / "asked.h5"))
    model, copy = mlp(), mlp()
    copy.load_state_dict(model.state_dict())
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "ignored.h5", on_failure="ignore") as run:
        train(model, optimizer, 10, run)
        second = gradscope.record(model, optimizer, tmp_path / "ignored.h5")
        second.close()
    assert optimizer.param_groups[0]["weight_decay"] == 0.02
    assert sorted(p.name for p in tmp_path.iterdir()) == ["asked-2.h5", "asked.h5"]
    groups = [
        {"params": [p for p in copy.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in copy.parameters() if p.ndim == 1], "weight_decay": 0.02},
    ]
    train(copy, torch.optim.SGD(groups, lr=0.05, momentum=0.9), 10)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    with gradscope.open_run(tmp_path / "asked.h5") as dataset:
        assert dataset["strength"].values[0, 0] == pytest.approx(0.05)
        ratio = (dataset["penalty_gradient_mean_abs"] / dataset["weight_mean_abs"]).values[0]
        np.testing.assert_allclose(ratio, [0.1, 0.02] * 3, rtol=1e-5)
        assert json.loads(dataset.attrs["capture"])["environment"]["GRADSCOPE_STRENGTH"] == "0.05"


@pytest.mark.parametrize("kind", MAKE)
def test_the_environment_schedules_whatever_penalty_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "delayed:4steps")
    model, copy = mlp(), mlp()
    copy.load_state_dict(model.state_dict())
    dataset = recorded(tmp_path / "r.h5", model, MAKE[kind](list(model.parameters())), 8)
    np.testing.assert_allclose(dataset["strength"].values[:, 0], [0] * 4 + [0.01] * 4, rtol=1e-6)
    assert dataset["penalised"].values.all()
    optimizer = MAKE[kind](list(copy.parameters()))

    def switch(step: int) -> None:
        optimizer.param_groups[0]["weight_decay"] = 0.02 if step >= 4 else 0.0

    train(copy, optimizer, 8, each=switch)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_decoupled_decay_is_replaced_by_decoupled_decay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_STRENGTH", "0.5")
    model, copy = mlp(), mlp()
    copy.load_state_dict(model.state_dict())
    recorded(tmp_path / "r.h5", model, MAKE["adamw"](list(model.parameters())), 5)
    groups = [
        {"params": [p for p in copy.parameters() if p.ndim > 1], "weight_decay": 1.0},
        {"params": [p for p in copy.parameters() if p.ndim == 1], "weight_decay": 0.02},
    ]
    train(copy, torch.optim.AdamW(groups, lr=0.01), 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GRADSCOPE_STRENGTH", "strong", "expected a number"),
        ("GRADSCOPE_STRENGTH", "-1", "at least 0"),
        ("GRADSCOPE_PENALTY", "ridge", "penalty is 'ridge'"),
        ("GRADSCOPE_SCHEDULE", "later", "schedule is 'later'"),
        ("GRADSCOPE_SEED", "one", "expected a whole number"),
        ("GRADSCOPE_ON_FAILURE", "shout", "GRADSCOPE_ON_FAILURE is 'shout'"),
    ],
)
def test_a_wrong_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv("GRADSCOPE_STRENGTH", "0.1")
    monkeypatch.setenv(name, value)
    model = mlp()
    with pytest.raises(InputError, match=message):
        gradscope.record(model, MAKE["sgd"](list(model.parameters())), tmp_path / "r.h5")
    assert not list(tmp_path.iterdir())


def test_schedule_in_epochs_without_epochs(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), Delayed(0.1, epochs=1))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", steps_per_epoch=2) as run:
        train(model, optimizer, 4, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["strength"].values[:, 0], [0, 0, 0.1, 0.1], rtol=1e-6)
    fresh = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(fresh, L2(), Delayed(0.1, epochs=1))
    with (
        gradscope.record(model, fresh, tmp_path / "s.h5"),
        pytest.raises(InputError, match="give it in steps"),
    ):
        train(model, fresh, 1)


def test_regularize_with_constant_is_not_taken_off_by_close(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), Constant(0.1))
    recorded(tmp_path / "r.h5", model, optimizer, 2)
    assert handle.step == 2
    train(model, optimizer, 1)
    assert handle.step == 3


# -- what a reviewer found ------------------------------------------------------------------------


def run_steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], x, y, run, steps: int, loss_of) -> None:
    for _ in range(steps):
        loss = loss_of(model(x), y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        run.log(loss=loss)


def deep(inputs: int, outputs: int, width: int = 24) -> nn.Module:
    sizes = [inputs, *[width] * 5, outputs]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def crushed(tmp_path: Path, x, y, outputs: int, loss_of, log=lambda loss: loss) -> gradscope.Diagnosis:
    torch.manual_seed(0)
    model = deep(x.shape[1], outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.4)
    generator = torch.Generator().manual_seed(1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        for _ in range(400):
            batch = torch.randint(0, len(x), (64,), generator=generator)
            loss = loss_of(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=log(loss))
    assert model(x).std(0).max() < 1e-3  # dead indeed
    return run.verdict


@pytest.mark.parametrize("task", ["imbalanced", "regression", "spare outputs"])
def test_a_dead_run_is_not_healthy_because_the_baseline_was_guessed(tmp_path: Path, task: str) -> None:
    data = digits()
    x, y = data.x, data.y
    if task == "imbalanced":  # prior entropy .33, far below ln 2
        found = crushed(tmp_path, x, (y == 0).long(), 2, nn.functional.cross_entropy)
    elif task == "spare outputs":
        found = crushed(tmp_path, x, y, 100, nn.functional.cross_entropy)
    else:
        found = crushed(tmp_path, x, 5 + 0.1 * x[:, 20:21], 1, nn.functional.mse_loss)
    assert found.verdict == "collapsed"
    assert "the output no longer depends on the input" in found.evidence


def test_a_float_loss_that_starts_high_is_no_baseline(tmp_path: Path) -> None:
    data = digits()
    first = [26.0]
    log = lambda loss: first.pop() if first else loss.item()  # noqa: E731
    assert crushed(tmp_path, data.x, data.y, 10, nn.functional.cross_entropy, log).verdict == "collapsed"


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("kind", ["double", "complex", "sparse", "bfloat16"])
def test_other_kinds_of_numbers(tmp_path: Path, kind: str) -> None:
    if kind == "sparse":
        model: nn.Module = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(12, 3))
        x = torch.randint(0, 5, (6, 3))
    else:
        model, x = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), torch.randn(6, 6)
        dtype = {"double": torch.float64, "complex": torch.complex64, "bfloat16": torch.bfloat16}[kind]
        model, x = model.to(dtype), x.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parameter = next(model.parameters())
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(x).abs().float().square().mean()
            loss.backward()
            gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            weight = parameter.detach().clone()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["loss_gradient_norm"].values[-1, 0] == pytest.approx(
            gradient.abs().double().norm().item(), rel=1e-3
        )
        exact = torch.vdot(weight.reshape(-1).to(torch.complex128), gradient.reshape(-1).to(torch.complex128)).real
        assert dataset["weight_gradient_dot"].values[-1, 0] == pytest.approx(exact.item(), rel=1e-2, abs=1e-6)
        assert dataset["nonfinite_count"].values.sum() == 0


def test_a_recorded_model_can_be_copied_and_saved(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset="full") as run:
        train(model, optimizer, 2, run)
        average = torch.optim.swa_utils.AveragedModel(model)
        torch.save(model, tmp_path / "model.pt")
        for other in (copy.deepcopy(model), average, torch.load(tmp_path / "model.pt", weights_only=False)):
            other.train()
            other(torch.full((4, 6), 1e9))  # reaches nobody
        train(model, optimizer, 2, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset["activation_mean_abs"].max() < 100


def test_optimizers_of_which_nothing_is_recorded(tmp_path: Path) -> None:
    model = mlp()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model[0], model[2:])]
    x, y = next(batches(1))
    with gradscope.record(model, optimizers, tmp_path / "r.h5", select="^0") as run:
        run_steps(model, optimizers, x, y, run, 3, nn.functional.cross_entropy)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 3


def test_parameters_added_later_are_recorded_from_then_on(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1, weight_decay=0.2)
    run = gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore")
    train(model, optimizer, 2, run)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    with pytest.warns(UserWarning, match="groups added later"):
        train(model, optimizer, 20, run)
    run.close()
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert dataset.sizes["step"] == 22
        assert dataset["group"].values.tolist() == [0, 0, -1, -1, -1, -1]
        norms = np.isfinite(dataset["loss_gradient_norm"].values)
        assert norms[:, :2].all() and norms[2:, 2:4].all()
        assert not norms[:2, 2:].any() and not norms[:, 4:].any()
        penalty = dataset["penalty_gradient_mean_abs"].values
        assert (penalty[2:, 2] > 0).all() and dataset["penalised"].values.tolist() == [True] * 4 + [False] * 2
        capture = json.loads(dataset.attrs["capture"])
        assert "added_later" in capture and "4.bias" in capture["not_recorded"]


@pytest.mark.parametrize("penalty", [None, L2(), L1(), Lp(3)], ids=str)
def test_a_penalty_on_parameters_that_are_thawed_is_recorded_from_then_on(
    tmp_path: Path, penalty: gradscope.Penalty | None
) -> None:
    """A backbone that is in the optimizer and frozen at first, as in fine-tuning."""
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.0 if penalty else 0.2)
    if penalty is not None:
        gradscope.regularize(optimizer, penalty, 0.1)
    expected = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:

        def look(step: int) -> None:
            w = model[0].weight.detach().double()
            pull = 0.1 * (penalty or L2()).gradient(w).abs().mean()
            expected.append(float(pull) if step >= 3 else 0.0)

        for step in range(6):
            model[0].requires_grad_(step >= 3)
            train(model, optimizer, 1, run, each=lambda _, step=step: look(step))  # type: ignore[misc]
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        weight = dataset.sel(parameter="0.weight")
        np.testing.assert_allclose(weight["penalty_gradient_mean_abs"].values, expected, rtol=1e-5)
        g = weight["loss_gradient_mean_abs"].values[3:]
        np.testing.assert_allclose(weight["proportion"].values[3:], g / (g + expected[3:]), rtol=1e-5)
        thawed = json.loads(dataset.attrs["capture"])["thawed"]
    assert thawed == {"0.weight": 3, "0.bias": 3}


def test_regularize_during_a_recording_is_seen(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        train(model, optimizer, 3, run)
        handle = regularize(optimizer, L2(), Constant(0.1))
        train(model, optimizer, 3, run)
        handle.detach()
        train(model, optimizer, 3, run)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        np.testing.assert_allclose(dataset["strength"].values[:, 0], [0, 0, 0, 0.1, 0.1, 0.1, 0, 0, 0], rtol=1e-6)
        assert dataset["penalised"].values.tolist() == [p.ndim > 1 for p in model.parameters()]
        assert (dataset["penalty_gradient_mean_abs"].values[3:6, 0] > 0).all()


def test_frozen_parameters_do_not_hide_a_collapse(tmp_path: Path) -> None:
    data = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 500).requires_grad_(False), nn.ReLU(), deep(500, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.4)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        run_steps(model, [optimizer], data.x[:64], data.y[:64], run, 150, nn.functional.cross_entropy)
    assert run.verdict.verdict == "collapsed"
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert not dataset["penalised"].values[:2].any()


def test_two_recordings_leave_the_decay_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "delayed:2steps")
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "a.h5"), gradscope.record(model, optimizer, tmp_path / "b.h5"):
        train(model, optimizer, 5)
    assert optimizer.param_groups[0]["weight_decay"] == 0.02
    for name in "ab":
        with gradscope.open_run(tmp_path / f"{name}.h5") as dataset:
            np.testing.assert_allclose(dataset["strength"].values[:, 0], [0, 0, 0.01, 0.01, 0.01], rtol=1e-6)


def test_two_penalties_leave_the_gradient_pure() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for penalty in (L2(), Lp(3)):
        regularize(optimizer, penalty, Constant(5.0))
    kept = {}
    train(model, optimizer, 1, each=lambda step: kept.update({p: p.grad.clone() for p in model.parameters()}))
    assert all(torch.equal(p.grad, g) for p, g in kept.items())
    broken = next(model.parameters())
    pure = broken.grad
    handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    handle.remove()
    optimizer.step()
    assert broken.grad is pure


def test_log_after_two_optimizers_and_after_closures(tmp_path: Path) -> None:
    model = mlp()
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2:].parameters(), lr=0.1)
    x, y = next(batches(1))
    with gradscope.record(model, [first, second], tmp_path / "a.h5") as run:
        for number in range(4):
            for optimizer in (first, second):
                model.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            run.log(tag=number)
    quasi = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def closure() -> torch.Tensor:
        quasi.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with gradscope.record(model, quasi, tmp_path / "b.h5") as run:
        for number in range(4):
            quasi.step(closure)
            run.log(tag=number)
    for name in "ab":
        with gradscope.open_run(tmp_path / f"{name}.h5") as dataset:
            assert dataset["tag"].values.tolist() == [0, 1, 2, 3]


def test_names_of_scalars_and_metrics(tmp_path: Path) -> None:
    model = mlp()
    optimizer = MAKE["sgd"](list(model.parameters()))
    with gradscope.record(model, optimizer, tmp_path / "r.h5") as run:
        for number in range(2):
            run.epoch(number, **{"val/acc": 0.5})
            train(model, optimizer, 1)
        for wrong in ("events", "epochs", "step", "weight_norm", " ", ""):
            with pytest.raises(InputError, match=r"uses that name|expected a word"):
                run.log(**{wrong: 1.0})
        with pytest.raises(InputError, match="expected a whole number"):
            run.epoch("first")  # type: ignore[arg-type]
        run.log(**{"train/acc": 0.25})
    with gradscope.open_run(tmp_path / "r.h5", "epochs") as table:
        assert table["val_acc"].values.tolist() == [0.5, 0.5]


def test_resumed_and_negative_losses_are_not_judged_by_a_guess(tmp_path: Path) -> None:
    """A guessed baseline is no evidence of a stall, and a negative loss none of learning."""
    model = mlp()
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = next(batches(1))
    for name, loss_of in {
        "resumed": lambda a, b: -a.log_softmax(1)[torch.arange(len(b)), b].mean() * 0.3,
        "negative": lambda a, b: nn.functional.mse_loss(a[:, 0], b.float()) - 5,
    }.items():
        with gradscope.record(model, still, tmp_path / f"{name}.h5", on_failure="ignore") as run:
            run_steps(model, [still], x, y, run, 100, loss_of)
        assert run.verdict.verdict == "undecided"


def test_l1_that_zeroes_everything_at_once_is_seen_live(tmp_path: Path) -> None:
    model = deep(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L1(), Constant(5.0))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
        train(model, optimizer, 100, run)
        assert run.verdict.verdict == "collapsed"


def test_a_blind_delay_is_warned_about(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), Delayed(0.1, "auto"))
    with (
        gradscope.record(model, optimizer, tmp_path / "r.h5"),
        pytest.warns(UserWarning, match="no loss is logged"),
    ):
        train(model, optimizer, 120)


@pytest.mark.parametrize("preset", ["cheap", "standard", "full"])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1e38])
def test_weights_that_explode_are_recorded_without_a_warning(
    tmp_path: Path, preset: str, kind: type[nn.Module], value: float
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), kind(), nn.Linear(8, 8), kind(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    gradscope.regularize(optimizer, gradscope.L1(), gradscope.Constant(0.0))
    with gradscope.record(model, optimizer, tmp_path / "r.h5", preset=preset, on_failure="ignore") as run:
        train(model, optimizer, 40, run, lambda step: step == 20 and nn.init.constant_(model[2].weight, value))
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert gradscope.diagnose(dataset).failed


def test_warnings_point_at_the_line_of_the_user(tmp_path: Path) -> None:
    """Through torch's hooks, from whichever depth: a failure is told in `optimizer.step()`, trouble in `log`."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
    with pytest.warns(UserWarning) as told, gradscope.record(model, optimizer, tmp_path / "run.h5") as run:
        for x, y in batches(400):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            run.log(**{"a/b": 1.0, "a_b": 2.0})
    assert any("collapsed" in str(warning.message) for warning in told)
    assert any("one name in a file" in str(warning.message) for warning in told)
    assert {Path(warning.filename).name for warning in told} == {"test_recording.py"}
