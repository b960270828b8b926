"""A term of the loss that nobody declared, read off the gradients of neighbouring layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from gradscope.demo.data import digits
from gradscope.diagnosis.loss_terms import LossTerms
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.diagnosis.rules.post_hoc import check
from gradscope.store.record import Record

Chosen = Callable[[nn.Module], list[nn.Parameter]]


def everything(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim > 1]


def first(model: nn.Module) -> list[nn.Parameter]:
    return matrices(model)[:1]


def squares(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([w.square().sum() for w in weights]).sum()


def sizes(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([w.abs().sum() for w in weights]).sum()


def norms(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([w.norm() for w in weights]).sum()


def mlp(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), act(), nn.Linear(32, 32), act(), nn.Dropout(0.2), nn.Linear(32, 10))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, bias=False), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Functional(nn.Module):
    """ReLU is a function, and one layer skips two others."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.a, self.b, self.leave = (
            nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.enter(x))
        return self.leave(h + self.b(F.relu(self.a(h))))


def trained(
    path: Path,
    model: nn.Module,
    strength: float = 0.0,
    on: Chosen = everything,
    term: Callable[[Sequence[Tensor]], Tensor] = squares,
    optimizer: str = "SGD",
    steps: int = 96,
    **more: Any,
) -> Path:
    data = digits()
    lr = more.pop("lr", 0.05 if optimizer == "SGD" else 1e-3)
    moves = getattr(torch.optim, optimizer)(model.parameters(), lr=lr, weight_decay=more.pop("decay", 0.0))
    with gradscope.record(model, moves, path, on_failure="ignore", horizon=steps, **more) as run:
        for _ in range(steps):
            at = torch.randint(0, len(data.x), (64,))
            loss = F.cross_entropy(model(data.x[at]), data.y[at]) + 0.0
            whole = loss + strength * term(on(model)) if strength else loss
            moves.zero_grad()
            whole.backward()
            moves.step()
            run.log(loss=whole if "penalty" in more else loss)
    return path


def said(path: Path) -> list[tuple[str, float, tuple[str, ...]]]:
    """What the rule finds: the words, λ, the layers."""
    with Record(path) as record:
        return [
            (f.kind.removesuffix(" in the loss"), f.numbers["λ"], f.layers)
            for f in check(record).findings
            if f.rule == "undeclared_penalty"
        ]


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str, tuple[str, ...]]] = {
    "all": (mlp, {}, "λ‖w‖²", ("0.weight", "0.bias", "2.weight", "2.bias", "5.weight")),
    "matrices, Adam": (mlp, {"on": matrices, "optimizer": "Adam"}, "λ‖w‖²", ("0.weight", "2.weight", "5.weight")),
    "first, RMSprop": (mlp, {"on": first, "optimizer": "RMSprop"}, "λ‖w‖²", ("0.weight",)),
    "beside AdamW's decay": (
        mlp, {"on": matrices, "optimizer": "AdamW", "decay": 0.1}, "λ‖w‖²", ("0.weight", "2.weight", "5.weight")
    ),
    "sizes": (mlp, {"on": matrices, "term": sizes}, "λΣ|w|", ("0.weight", "2.weight", "5.weight")),
    "norms, not squared": (mlp, {"on": matrices, "term": norms}, "λ‖w‖", ("0.weight", "2.weight", "5.weight")),
    "conv": (conv, {"on": matrices}, "λ‖w‖²", ("1.weight", "5.weight", "7.weight")),
    "functional": (Functional, {"on": matrices}, "λ‖w‖²", ("a.weight", "b.weight")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_term_is_named_with_its_strength(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, options, words, layers = CASES[name]
    [(kind, strength, where)] = said(trained(tmp_path / "run.h5", model(), 1e-3, **options))
    assert kind == words
    assert strength == pytest.approx(1e-3, rel=1e-3)
    assert where == layers


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decay": 1e-2},
        {"optimizer": "AdamW", "decay": 1.0},
        {"optimizer": "Adam", "decay": 1e-2},
        {"strength": 1e-2, "on": matrices, "penalty": (gradscope.L2(), 1e-2)},
    ],
    ids=["none", "coupled", "decoupled", "coupled, Adam", "declared"],
)
def test_none_where_there_is_none(act: type[nn.Module], options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert not said(trained(tmp_path / "run.h5", mlp(act), **options))


def test_the_same_however_the_rows_are_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = trained(tmp_path / "run.h5", mlp(), 1e-3, steps=150)
    names = ("weight_gradient_dot", "weight_norm", "weight_mean_abs", "loss_gradient_mean_abs")
    with Record(path) as record:
        info = record.info
        blocks = list(record.blocks(names))
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in ("step", *names)}

    def looks(cut: int) -> list[tuple[int, Any]]:
        reader, found = LossTerms(info), []
        for start in range(0, 150, cut):
            block = {name: values[start : start + cut] for name, values in whole.items()}
            found += [(start + row, terms) for row, terms in reader.see(block)]
        return found

    assert [row for row, _ in looks(150)] == [31, 63, 95, 127]
    assert looks(1) == looks(7) == looks(150)
    assert all(terms for _, terms in looks(150))


def test_the_cause_of_a_failure_names_it(tmp_path: Path) -> None:
    """Adam's steps do not follow the size of a gradient: the weights fall slowly, and the term has the say at once."""
    torch.manual_seed(0)
    path = trained(tmp_path / "run.h5", mlp(), 0.2, matrices, optimizer="Adam", steps=160, lr=3e-4)
    with Record(path) as record:
        told = judge_record(record).diagnosis(finished=True)
    assert told.failed
    assert told.cause == "a penalty that is not declared"
    assert "λ‖w‖² with λ = 0.2" in told.remedy
    assert not any("of its largest norm" in line for line in told.evidence)
    assert any("read off the gradients of 0.weight and 2.weight" in line for line in told.evidence)
