"""Terms of the user's own in the loss: their gradient told apart, against twins; schedules, searches, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope import Constant, Delayed, InputError, Term
from gradscope.processes.instructions import Instructions, instructed
from gradscope.store.record import Record
from tests.helpers.loops import batches


class Coded(nn.Module):
    """A classifier with a code in the middle, whose mean square is the term."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.tanh(self.encoder(x))
        return self.decoder(code), code.square().mean()


def data_and_term(model: Coded, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    out, value = model(x)
    return nn.functional.cross_entropy(out, y), value


def trained(
    path: Path, term: Term, steps: int = 8, parts: int = 1, scaler: Any = None, **options: Any
) -> list[dict[str, Any]]:
    """Train, recorded; returns what twins say of each step: gradients of data and term, data loss, λ."""
    model = Coded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    told = []
    with gradscope.record(model, optimizer, path, penalty=term, on_failure="ignore", **options) as run:
        for x, y in batches(steps):
            optimizer.zero_grad()
            twin: dict[str, Any] = {"data": 0.0, "term": 0.0, "loss": 0.0}
            whole = torch.zeros(())
            for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
                data, value = data_and_term(model, xs, ys)
                for name, scalar in (("data", data), ("term", value)):
                    grads = torch.autograd.grad(scalar, model.encoder.weight, retain_graph=True)
                    twin[name] = twin[name] + grads[0] / parts
                twin["strength"] = term.strength
                loss = (data + term(value)) / parts
                (loss if scaler is None else scaler.scale(loss)).backward()
                twin["loss"] += data.item() / parts
                whole = whole + loss.detach()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            run.log(loss=whole)
            told.append(twin)
    return told


def check(path: Path, told: list[dict[str, Any]]) -> None:
    with gradscope.open_run(path) as dataset:
        assert dataset.attrs["penalty"] == "term:kl"
        at = list(dataset["parameter"].values).index("encoder.weight")
        for row, twin in zip(dataset["step"].values, (told[int(s)] for s in dataset["step"].values), strict=True):
            one = dataset.sel(step=row)
            assert float(one["loss_gradient_mean_abs"][at]) == pytest.approx(float(twin["data"].abs().mean()), rel=2e-4)
            pull = twin["strength"] * float(twin["term"].abs().mean())
            assert float(one["penalty_gradient_mean_abs"][at]) == pytest.approx(pull, rel=2e-4, abs=1e-9)
            assert float(one["loss"]) == pytest.approx(twin["loss"], rel=1e-4)
            assert float(one["strength"][0]) == pytest.approx(twin["strength"])


@pytest.mark.parametrize("parts", [1, 5])
def test_the_gradient_of_the_term_is_told_from_the_datas(tmp_path: Path, parts: int) -> None:
    check(tmp_path / "r.h5", trained(tmp_path / "r.h5", Term("kl", 0.7), parts=parts))


def test_under_a_gradient_scaler(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    check(tmp_path / "r.h5", trained(tmp_path / "r.h5", Term("kl", 0.7), parts=2, scaler=scaler))


def test_a_delay_is_kl_annealing(tmp_path: Path) -> None:
    told = trained(tmp_path / "r.h5", Term("kl", Delayed(0.7, steps=5)))
    assert [twin["strength"] for twin in told] == [0.0] * 5 + [0.7] * 3
    check(tmp_path / "r.h5", told)
    with Record(tmp_path / "r.h5") as record:
        assert (5, "term:kl: λ 0.7") in {(e["step"], e["text"]) for e in record.events}


def test_only_recorded_steps_take_the_extra_backward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, own = [], torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return own(*args, **options)

    term = Term("kl", 0.7)
    told = trained(tmp_path / "a.h5", term, every=4)
    check(tmp_path / "a.h5", told)
    model = Coded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "b.h5", penalty=(term := Term("kl")), every=4) as run:
        monkeypatch.setattr(torch.autograd, "grad", counted)
        for x, y in batches(8):
            data, value = data_and_term(model, x, y)
            optimizer.zero_grad()
            (data + term(value)).backward()
            optimizer.step()
            run.log(loss=data + value)
    assert len(calls) == 2


def test_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    weights = []
    for watched in (False, True):
        model = Coded()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        term = Term("kl", 0.7)
        run = gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=term) if watched else None
        for x, y in batches(20):
            data, value = data_and_term(model, x, y)
            optimizer.zero_grad()
            loss = data + (term(value) if watched else 0.7 * value)
            loss.backward()
            optimizer.step()
            if run is not None:
                run.log(loss=loss)
        if run is not None:
            run.close()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("to_none", [True, False])
def test_a_loss_that_is_thrown_away_does_not_count(tmp_path: Path, to_none: bool) -> None:
    model, term = Coded(), Term("kl", 0.7)
    model.decoder.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=term, on_failure="ignore") as run:
        for x, y in batches(4):
            term(data_and_term(model, 3 * x, y)[1])  # never used
            data, value = data_and_term(model, 2 * x, y)
            (torch.nan * (data + term(value))).backward()  # its gradients are thrown away
            optimizer.zero_grad(set_to_none=to_none)
            model.encoder.bias.requires_grad_(len(expected) > 1)  # frozen and thawed
            data, value = data_and_term(model, x, y)
            live = [p for p in model.encoder.parameters() if p.requires_grad]
            grads = torch.autograd.grad(data, live, retain_graph=True)
            expected.append([data.item(), *(float(g.abs().mean()) for g in grads), torch.nan][:3])
            loss = data + term(value)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        encoder = dataset.sel(parameter=["encoder.weight", "encoder.bias"])
        found = np.column_stack([dataset["loss"].values, encoder["loss_gradient_mean_abs"].values])
        if not to_none:  # what was frozen keeps the zeros that it was given
            found[:2, 2] = np.nan
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_what_a_graph_does_not_give_twice_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled backward pass refuses to be kept for a second one: NaN in the record, and the training goes on."""

    def refuses(*args: Any, **options: Any) -> Any:
        raise RuntimeError("compiled with non-empty donated buffers")

    model, term = Coded(), Term("kl", 0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.warns(UserWarning, match="the gradient of term:kl cannot be told from the data's"),
        gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=term, on_failure="ignore") as run,
        monkeypatch.context() as patch,
    ):
        patch.setattr(torch.autograd, "grad", refuses)
        for x, y in batches(4):
            data, value = data_and_term(model, x, y)
            optimizer.zero_grad()
            loss = data + term(value)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        assert np.isnan(dataset["loss_gradient_mean_abs"].values).all()
        assert np.isfinite(dataset["weight_mean_abs"].values).all()


def test_a_restart_begins_anew_and_an_append_goes_on(tmp_path: Path) -> None:
    term = Term("kl", Delayed(0.7, steps=5))
    first = [twin["strength"] for twin in trained(tmp_path / "a.h5", term, steps=4)]
    again = [twin["strength"] for twin in trained(tmp_path / "b.h5", term, steps=7)]
    more = [twin["strength"] for twin in trained(tmp_path / "b.h5", term, steps=3, mode="append")]
    assert (first, again, more) == ([0.0] * 4, [0.0] * 5 + [0.7] * 2, [0.7] * 3)


def test_full_splits_updates_by_the_term(tmp_path: Path) -> None:
    told = trained(tmp_path / "r.h5", Term("kl", 0.7), steps=9, preset="full", every={"rows": 1, "updates": 4})
    check(tmp_path / "r.h5", told)
    with Record(tmp_path / "r.h5") as record:
        share = record.column("update_proportion")
    known = np.flatnonzero(np.isfinite(share).any(1))
    assert list(known) == [0, 4, 8]
    data, pull = (told[0][n] * f for n, f in (("data", 1.0), ("term", 0.7)))
    at = list(gradscope.open_run(tmp_path / "r.h5")["parameter"].values).index("encoder.weight")
    expected = float(data.abs().sum() / (data.abs().sum() + pull.abs().sum()))
    assert share[0, at] == pytest.approx(expected, rel=1e-3)


# -- what the environment asks ----------------------------------------------------------------------


def test_a_search_sets_its_strength_and_its_delay(tmp_path: Path) -> None:
    term = Term("kl", 0.7)
    with instructed(Instructions(strength=0.2, penalty="term:kl", schedule="delayed:3steps")):
        told = trained(tmp_path / "a.h5", term)
    assert [twin["strength"] for twin in told] == [0.0] * 3 + [0.2] * 5
    check(tmp_path / "a.h5", told)
    assert term.schedule.text == "constant"
    with instructed(Instructions(schedule="delayed:3steps")):
        told = trained(tmp_path / "b.h5", Term("kl", 0.7))
    assert [twin["strength"] for twin in told] == [0.0] * 3 + [0.7] * 5


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ("l2", "the record is about term:kl, and l2 was asked for: search the term, with --penalty term:kl"),
        ("term:sparsity", "no term:sparsity among the penalties of the script; it has term:kl"),
    ],
)
def test_another_penalty_than_the_term_is_refused(tmp_path: Path, penalty: str, message: str) -> None:
    with instructed(Instructions(strength=0.2, penalty=penalty)), pytest.raises(InputError, match=message):
        trained(tmp_path / "r.h5", Term("kl", 0.7))


def test_a_tuning_of_a_term(tmp_path: Path) -> None:
    def train(strength: float, seed: int, path: Path) -> None:
        trained(path, Term("kl", strength), steps=4)

    from gradscope.trials.run_trial import run_function_trial
    from gradscope.trials.trial import Trial

    trial = run_function_trial(train, Trial(0, 0.3, 0, whole=True), tmp_path / "t.h5", "term:kl", "loss")
    assert trial.value is not None
    assert trial.acted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Term("k l"), "name is 'k l'; expected a word"),
        (lambda: Term("kl", "often"), "for a term, expected one such as"),
        (lambda: Term("kl")(torch.zeros(())), "has no schedule to follow yet: give it to gradscope.record"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_term_that_no_loss_holds_is_said(tmp_path: Path) -> None:
    model, term = Coded(), Term("kl", 0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=term, on_failure="ignore") as run,
        pytest.warns(UserWarning, match=r"no loss of the first 16 steps holds term:kl: add what it returns"),
    ):
        for x, y in batches(20):
            data, value = data_and_term(model, x, y)
            optimizer.zero_grad()
            loss = data + term.strength * value  # by hand
            loss.backward()
            optimizer.step()
            run.log(loss=loss)


def test_mistakes_in_a_loop(tmp_path: Path) -> None:
    model, term = Coded(), Term("kl", Constant(0.7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "r.h5", penalty=term):
        with pytest.raises(InputError, match=r"a tensor of shape \(3,\); expected a tensor with one entry"):
            term(torch.zeros(3))
        with pytest.raises(InputError, match=r"does not work with step\(closure\)"):
            optimizer.step(lambda: 0.0)
    with pytest.raises(InputError, match="does not work with LBFGS"):
        gradscope.record(model, torch.optim.LBFGS(model.parameters()), tmp_path / "s.h5", penalty=Term("kl"))
    with pytest.raises(InputError, match="expected the penalty and its strength"):
        gradscope.record(model, optimizer, tmp_path / "s.h5", penalty="kl")  # type: ignore[arg-type]
    assert not (tmp_path / "s.h5").exists()
