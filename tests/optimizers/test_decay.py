"""How ``weight_decay`` acts in optimizers that are not torch's: found out, or called unknown; small re-creations."""

from __future__ import annotations

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import gradscope
from gradscope.optimizers import decay
from gradscope.optimizers.decay import decay_of, torch_class
from gradscope.torch_utils import ranks
from tests.helpers.loops import mlp, recorded, train
from tests.helpers.wrappers import Warm


class Own(Optimizer):
    """``update(w, g, state, group)`` a weight, each with a decay of its own kind."""

    def __init__(self, parameters: Any, lr: Any = 1e-3, weight_decay: float = 0.0, **more: Any) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, **more})

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)


def shrink(w: Tensor, group: dict[str, Any]) -> None:
    w.mul_(1 - group["lr"] * group["weight_decay"])


def adam(g: Tensor, state: dict[str, Any]) -> Tensor:
    m, v = (state.setdefault(name, torch.zeros_like(g)) for name in "mv")
    state["t"] = t = state.get("t", 0) + 1
    m.lerp_(g, 0.1)
    v.lerp_(g * g, 0.01)
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)


class Lion(Own):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(w))
        shrink(w, group)
        w.sub_((0.9 * m + 0.1 * g).sign(), alpha=group["lr"])
        m.lerp_(g, 0.01)


class CoupledLion(Lion):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(w, g + group["weight_decay"] * w, state, {**group, "weight_decay": 0})


class SGDW(Own):
    """With momentum; the decay is the share itself, as in the paper."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(w))
        m.mul_(group.get("momentum", 0)).add_(g)
        w.mul_(1 - group["weight_decay"]).sub_(m, alpha=group["lr"])


class TimesRate(SGDW):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        shrink(w, group)
        super().update(w, g, state, {**group, "weight_decay": 0})


class Coupled(SGDW):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(w, g + group["weight_decay"] * w, state, {**group, "weight_decay": 0})


class Adan(Own):
    """Divides by 1 + lr·decay, after the update."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.sub_(adam(g, state), alpha=group["lr"]).div_(1 + group["lr"] * group["weight_decay"])


class OwnAdam(Own):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.sub_(adam(g + group["weight_decay"] * w, state), alpha=group["lr"])


class Late(Own):
    """Only gathers in its first step, as ADOPT does."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if state:
            shrink(w, group)
            w.sub_(adam(g, state), alpha=group["lr"])
        state["begun"] = True


class MuonWithAux(Own):
    """Orthogonal steps for matrices, Adam for the rest, by a flag of the group."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        shrink(w, group)
        if group["use_muon"]:
            m = state.setdefault("m", torch.zeros_like(w)).lerp_(g, 0.05)
            u, _, v = torch.linalg.svd(m, full_matrices=False)
            w.sub_(u @ v, alpha=group["lr"])
        else:
            w.sub_(adam(g, state), alpha=group["lr"])


class ScheduleFree(Own):
    """AdamW at y, between z and the average x; has to be told to train first."""

    def train(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not group.get("train_mode"):
            raise RuntimeError("call train() first")
        z = state.setdefault("z", w.clone())
        u = adam(g, state) + group["weight_decay"] * w
        c = 1 / state["t"]
        w.lerp_(z, c).add_(u, alpha=group["lr"] * (0.9 * (1 - c) - 1))
        z.sub_(u, alpha=group["lr"])


class OverSGD(SGD):
    """Inherits from torch's, whose decay is coupled, and decays by itself."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        kept = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            for p in group["params"]:
                shrink(p, group)
            group["weight_decay"] = 0
        out = super().step(closure)
        for group, own in zip(self.param_groups, kept, strict=True):
            group["weight_decay"] = own
        return out


class Corrected(Own):
    """The decay goes with the square of the rate: neither of the two kinds."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.mul_(1 - 100 * group["lr"] ** 2 * group["weight_decay"]).sub_(adam(g, state), alpha=group["lr"])


class Trusting(Own):
    """LAMB: the decay stands beside Adam's step, and both are scaled by the ratio of their norms."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        u = adam(g, state) + group["weight_decay"] * w
        w.sub_(u * (w.norm() / u.norm()), alpha=group["lr"])


class Cautious(Own):
    """Decays the entries that the update makes smaller, and no others."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        u = adam(g, state)
        w.sub_(group["weight_decay"] * w * (u * w > 0), alpha=group["lr"]).sub_(u, alpha=group["lr"])


class NeedsClosure(Lion):
    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()
        super().step()


KINDS: dict[str, tuple[Any, str, bool, bool]] = {  # acts, times the rate, adaptive
    "lion": (Lion, "decoupled", True, True),
    "coupled lion": (CoupledLion, "coupled", True, True),
    "sgdw": (lambda p, **o: SGDW(p, momentum=0.9, **o), "decoupled", False, False),
    "sgdw, no momentum": (SGDW, "decoupled", False, False),
    "times rate": (lambda p, **o: TimesRate(p, momentum=0.9, **o), "decoupled", True, False),
    "times rate, momentum 0": (lambda p, **o: TimesRate(p, momentum=0, **o), "decoupled", True, False),
    "coupled": (lambda p, **o: Coupled(p, momentum=0.9, **o), "coupled", True, False),
    "coupled, momentum 0": (lambda p, **o: Coupled(p, momentum=0, **o), "coupled", True, False),
    "adan": (Adan, "decoupled", True, True),
    "coupled adam": (OwnAdam, "coupled", True, True),
    "late": (Late, "decoupled", True, True),
    "muon": (lambda p, **o: MuonWithAux(p, use_muon=True, **o), "decoupled", True, True),
    "aux adam": (lambda p, **o: MuonWithAux(p, use_muon=False, **o), "decoupled", True, True),
    "schedule-free": (ScheduleFree, "decoupled", True, True),
    "over torch's": (OverSGD, "decoupled", True, False),
    "nested": (Warm, "coupled", True, False),
    "nested, momentum": (lambda p, **o: Warm(p, momentum=0.9, **o), "coupled", True, False),
    "tensor rate": (lambda p, **o: Lion(p, **(o | {"lr": torch.tensor(0.1)})), "decoupled", True, True),
    "corrected": (Corrected, "unknown", True, True),
    "trusting": (Trusting, "unknown", True, True),
    "cautious": (Cautious, "unknown", True, True),
}


@pytest.mark.parametrize("own", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_how_a_decay_acts_is_found_out(kind: str, own: float) -> None:
    make, acts, times_rate, adaptive = KINDS[kind]
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    optimizer = make(model.parameters(), lr=0.1, weight_decay=own)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    found = decay_of(optimizer, optimizer.param_groups[0])
    assert (found.acts, found.times_rate, found.adaptive) == (acts, times_rate, adaptive)
    assert str(optimizer.state_dict()) == str(before[1]) and not optimizer.state
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before[0].items())


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_a_scripts_defaults_do_not_reach_the_trial(default: torch.dtype) -> None:
    optimizers = [make(mlp().parameters(), lr=0.1, weight_decay=0.1) for make in (Lion, SGDW, OwnAdam)]
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"):
            found = [decay_of(optimizer, optimizer.param_groups[0]).acts for optimizer in optimizers]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == ["decoupled", "decoupled", "coupled"]


def test_torchs_own_are_known_by_name() -> None:
    class Heir(Adam):
        pass

    for cls, decoupled in ((SGD, False), (Adam, False), (AdamW, True), (Heir, False)):
        optimizer = cls(mlp().parameters(), lr=0.1)
        assert torch_class(optimizer) in (cls.__name__, "Adam")
        assert decay_of(optimizer, optimizer.param_groups[0]).decoupled == decoupled
    assert torch_class(Warm(mlp().parameters(), lr=0.1)) == ""


@pytest.mark.parametrize("kind", ["lion", "over torch's", "schedule-free", "sgdw"])
def test_a_decoupled_decay_is_recorded_as_one(tmp_path: Path, kind: str) -> None:
    make, acts, times_rate, _ = KINDS[kind]
    model = mlp()
    optimizer = make(model.parameters(), lr=0.1, weight_decay=0.04)
    if kind == "schedule-free":
        optimizer.train()
    dataset = recorded(tmp_path / "r.h5", model, optimizer, 5)
    (source,) = json.loads(dataset.attrs["capture"])["penalties"]
    assert source["acts"] == acts
    strength = 0.02 if times_rate else 0.02 / 0.1
    np.testing.assert_allclose(dataset["strength"].values, strength, rtol=1e-6)
    expected = 2 * strength * dataset["weight_mean_abs"].values
    np.testing.assert_allclose(dataset["penalty_gradient_mean_abs"].values, expected, rtol=1e-5)
    assert ("whatever the learning rate" in source["note"]) == (not times_rate)


def test_the_environment_replaces_it_by_its_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strength from outside does what the same strength in the script does."""
    ends = []
    for own, asked in ((1.0, None), (0.0, "0.5")):
        if asked:
            monkeypatch.setenv("GRADSCOPE_STRENGTH", asked)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
        with gradscope.record(model, Lion(model.parameters(), 1e-2, own), tmp_path / f"{own}.h5") as run:
            optimizer = run._recorder._optimizers[0]
            train(model, optimizer, 60, run)
        ends.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_tried_is_called_unknown(tmp_path: Path) -> None:
    model = mlp()
    optimizer = NeedsClosure(model.parameters(), lr=0.1, weight_decay=0.2)
    with (
        pytest.warns(UserWarning, match="how the weight_decay of NeedsClosure acts is not known"),
        gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore"),
    ):
        nn.functional.cross_entropy(model(torch.randn(5, 6)), torch.zeros(5, dtype=torch.long)).backward()
        optimizer.step(lambda: None)
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        (source,) = json.loads(dataset.attrs["capture"])["penalties"]
        assert source["acts"] == "unknown" and "not known" in source["note"]
        assert dataset["strength"].values[:, 0] == pytest.approx(0.1)


class Elsewhere(Own):
    """A decay that is kept on the object."""

    share = 0.01

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        shrink(w, group)
        w.sub_(adam(g, state), alpha=group["lr"])
        w.mul_(1 - self.share)


class Renamed(Own):
    """A coupled decay under another name, through a momentum."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(w))
        m.mul_(0.9).add_(g + group["l2"] * w)
        w.sub_(m, alpha=group["lr"])


class RenamedAdam(Own):
    """The same through Adam, which makes a whole step of the least gradient."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.sub_(adam(g + group["l2"] * w, state), alpha=group["lr"])


class RenamedSigns(Own):
    """The same through signs."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.sub_((g + group["l2"] * w).sign(), alpha=group["lr"])


class Stepping(Adam):
    """torch's, with a line of one's own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class CoupledAdam(Own):
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        w.sub_(adam(g + group["weight_decay"] * w, state), alpha=group["lr"])


class CoupledElsewhere(CoupledAdam):
    """Besides, with a decay that is kept on the object."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(w, g, state, group)
        w.mul_(1 - 0.01)


class Lamb(Own):
    """A step as long as the weight, times the rate."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = adam(g, state) + group["weight_decay"] * w
        w.sub_(step * (w.norm() / step.norm() if step.norm() > 0 else 1.0), alpha=group["lr"])


class Lars(Own):
    """A trusted step, as long as a share of the weight."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m = state.setdefault("m", torch.zeros_like(w))
        step = g + group["weight_decay"] * w
        m.mul_(0.9).add_(step * (0.1 * w.norm() / step.norm() if step.norm() > 0 else 1.0))
        w.sub_(m, alpha=group["lr"])


class LambElsewhere(Lamb):
    """Besides, with a decay that is kept on the object."""

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(w, g, state, group)
        w.mul_(1 - 0.01)


@pytest.mark.parametrize(
    ("make", "share"),
    [
        (lambda p: Stepping(p, lr=1e-3), 0.0),
        (lambda p: Stepping(p, lr=1e-3, weight_decay=1e-4), 0.0),
        (lambda p: CoupledAdam(p, lr=1e-3, weight_decay=1e-4), 0.0),
        (lambda p: Lamb(p, lr=1e-3, weight_decay=1e-2), 0.0),
        (lambda p: Lars(p, lr=1e-2, weight_decay=1e-4), 0.0),
        (lambda p: LambElsewhere(p, lr=1e-3, weight_decay=1e-2), 0.01),
        (lambda p: Elsewhere(p, lr=0.01, weight_decay=0.1), 0.01),
        (lambda p: Renamed(p, lr=0.01, l2=0.1), None),
        (lambda p: Renamed(p, lr=0.01, l2=0.0), 0.0),
        (lambda p: RenamedAdam(p, lr=0.01, l2=1e-4), 0.0),
        (lambda p: RenamedSigns(p, lr=0.01, l2=1e-4), 0.0),
        (lambda p: CoupledElsewhere(p, lr=1e-3, weight_decay=1e-4), 0.01),
        (lambda p: Lion(p, lr=0.01, weight_decay=0.5), 0.0),
        (lambda p: AdamW(p, lr=0.01, weight_decay=0.5), 0.0),
        (lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.1), 0.01),
        (lambda p: torch.optim.ASGD(p, weight_decay=0.1), 0.0),
    ],
)
def test_a_decay_of_its_own_is_told(tmp_path: Path, make: Any, share: float | None) -> None:
    """Where the groups have no ``weight_decay``, or another: it is no penalty of the record, and named."""
    model = mlp()
    optimizer = make(model.parameters())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure="ignore") as run:
            train(model, optimizer, 20)
    del run
    with gradscope.open_run(tmp_path / "r.h5") as dataset:
        found = json.loads(dataset.attrs["capture"]).get("decay_of_its_own", 0.0)
    assert found == pytest.approx(share, rel=0.01) if share is not None else 1e-3 < found < 1e-2
    assert bool(found) == any("takes the share" in str(w.message) for w in told)


def test_a_setting_tells_where_a_trial_does_not() -> None:
    for flag in decay._FLAGS:
        for value, acts in ((True, "decoupled"), (False, "coupled")):
            optimizer = NeedsClosure(mlp().parameters(), lr=0.1, **{flag: value})
            assert decay_of(optimizer, optimizer.param_groups[0]).acts == acts


def test_what_cannot_be_copied_is_not_tried() -> None:
    for name, value in (("big", torch.zeros(2 << 20)), ("model", mlp()), ("lock", __import__("threading").Lock())):
        optimizer = Lion(mlp().parameters(), lr=0.1)
        setattr(optimizer, name, value)
        assert decay_of(optimizer, optimizer.param_groups[0]).acts == "unknown"


class Noisy(Lion):
    """Draws random numbers, counts its steps, and keeps a history."""

    history: list[float]

    def update(self, w: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        self.history = [*getattr(self, "history", []), random.random() + np.random.rand()]  # noqa: NPY002
        super().update(w, g + 0.1 * torch.randn_like(g), state, group)


def test_a_trial_goes_unnoticed(tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        model = mlp()
        optimizer = Noisy(model.parameters(), lr=0.1, weight_decay=0.1)
        optimizer.register_step_pre_hook(lambda *_: ends.append("hooked"))
        if watched:
            recorded(tmp_path / "r.h5", model, optimizer, 5)
        else:
            train(model, optimizer, 5)
        ends.append([p.tolist() for p in model.parameters()] + [optimizer.history])
    assert ends.count("hooked") == 10
    assert ends[5] == ends[-1]


def test_with_other_ranks_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: 2)
    optimizer = Lion(mlp().parameters(), lr=0.1)
    assert decay_of(optimizer, optimizer.param_groups[0]).acts == "unknown"
