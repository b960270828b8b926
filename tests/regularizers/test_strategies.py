"""Gradient masks, noise, adversarial examples and patience."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope import (
    L2,
    AutoL2,
    Constant,
    InputError,
    Table,
    mask_gradients,
    parse_schedule,
    regularize,
)
from gradscope.regularizers.strategies import EarlyStopping, GaussianNoise, add_noise, fgsm
from tests.helpers.loops import mlp, recorded, train
from tests.helpers.twins import twin_models, weights


def test_masked_weights_stand_still_and_the_gradient_stays_whole() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask_gradients(optimizer, Constant(0.5))
    before = weights(model)
    for _ in range(5):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert p.grad is not None
        assert p.grad.all()
        assert (p != old).float().mean().item() == (0.5 if p.ndim > 1 else 1.0)


def test_the_pattern_is_drawn_anew_only_when_the_degree_changes() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = mask_gradients(optimizer, Table(1.0, steps={0: 0.3, 5: 0.6, 9: 0, 12: 0.6}), r"^0.weight", model=model)
    patterns = []
    train(model, optimizer, 15, each=lambda step: patterns.append(copy.deepcopy(list(handle._masks.values()))))
    assert not patterns[0]
    same = [torch.equal(a[0], b[0]) for a, b in pairwise(patterns[1:])]
    assert [step + 1 for step, equal in enumerate(same) if not equal] == [5, 9, 12]
    assert int((handle._masks[id(model[0].weight)] == 0).sum()) == round(0.6 * 48)
    assert handle.drawn == 4


@pytest.mark.parametrize(("scheme", "degree"), [("sch21", 0.5), ("sch22", 0.8), ("sch23", 0.3)])
def test_the_schemes_of_table_1(scheme: str, degree: float) -> None:
    """Epochs 101 to 250 of the document are 100 to 249 here."""
    handle = mask_gradients(torch.optim.SGD(mlp().parameters(), lr=0.1), scheme)
    degrees = [handle.schedule.at(0, epoch) for epoch in (0, 99, 100, 249, 250, 449)]
    assert degrees == [0, 0, degree, degree, 0, 0]


def test_a_mask_resumes_with_its_pattern() -> None:
    first, second = twin_models()
    table = "table:0=0.5,4=0.7steps"
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (first, second)]
    whole = mask_gradients(optimizers[0], table, seed=5)
    train(first, optimizers[0], 6)
    stopped = mask_gradients(optimizers[1], table, seed=5)
    train(second, optimizers[1], 6)
    state = stopped.state_dict()
    stopped.detach()
    resumed = mask_gradients(optimizers[1], table, seed=5)
    resumed.load_state_dict(state)
    train(first, optimizers[0], 6)
    train(second, optimizers[1], 6)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert resumed.step == whole.step == 12


def test_a_mask_is_no_penalty_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = mask_gradients(optimizer, Constant(0.5))
    regularize(optimizer, L2(), Constant(0.01))
    monkeypatch.setenv("GRADSCOPE_STRENGTH", "0.03")
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 4)
    assert dataset.attrs["penalty"] == "l2"
    assert dataset["strength"].values[0, 0] == pytest.approx(0.03)
    assert not handle.suspended


def test_a_degree_is_a_share() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask_gradients(optimizer, Constant(1.5))
    with pytest.raises(InputError, match=r"the degree of sparsity is 1.5"):
        train(model, optimizer, 1)
    with pytest.raises(InputError, match="sets a strength, not a degree"):
        mask_gradients(optimizer, AutoL2())


def test_noise_is_there_in_training_only() -> None:
    noise, x = GaussianNoise(0.5), torch.zeros(20000)
    assert noise(x).std().item() == pytest.approx(0.5, rel=0.05)
    assert noise.eval()(x) is x
    with pytest.raises(InputError, match="std is -1"):
        GaussianNoise(-1)


def test_noise_on_hidden_layers_comes_off_again() -> None:
    model, x = mlp(), torch.ones(3, 6)
    quiet = model(x)
    remove = add_noise(model, 0.1, nn.ReLU)
    assert not torch.equal(model(x), quiet)
    assert torch.equal(model.eval()(x), quiet)
    remove()
    assert torch.equal(model.train()(x), quiet)
    with pytest.raises(InputError, match="modules chooses none"):
        add_noise(model, 0.1, nn.Conv2d)


def test_fgsm_goes_up_by_epsilon_in_each_input() -> None:
    """On a linear model the sign of the gradient is known: that of the weights."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0, 0.0]]))
    x, y = torch.zeros(2, 3), torch.zeros(2, 1)
    found = fgsm(model, lambda out, _: out.sum(), x, y, 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.1, -0.1, 0.0]]).expand(2, 3))
    assert model.weight.grad is None
    criterion = nn.CrossEntropyLoss()
    net, inputs, labels = mlp(), torch.randn(8, 6), torch.randint(3, (8,))
    assert criterion(net(fgsm(net, criterion, inputs, labels, 0.05)), labels) > criterion(net(inputs), labels)
    with pytest.raises(InputError, match="does not depend on x"):
        fgsm(net, lambda out, _: net[0].weight.sum(), inputs, labels, 0.05)


def test_early_stopping_waits_for_its_patience() -> None:
    stopping = EarlyStopping(patience=3, mode="max", min_delta=0.01)
    assert [stopping.update(v) for v in (0.5, 0.505, 0.6, 0.59, float("nan"))] == [False] * 5
    resumed = EarlyStopping(patience=3, mode="max", min_delta=0.01)
    resumed.load_state_dict(stopping.state_dict())
    assert resumed.update(0.605)
    with pytest.raises(InputError, match="patience is 0"):
        EarlyStopping(0)


def test_a_dropout_rate_may_follow_any_schedule() -> None:
    """Why there is no wrapper for it: docs/decisions/0008."""
    taper, dropout = parse_schedule("taper:0.5:8", 0.05), nn.Dropout(0.05)
    dropout.p = taper.at(learning_rate=0.001, highest_rate=0.1)
    assert dropout.p == pytest.approx(0.4)
