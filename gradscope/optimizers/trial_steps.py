"""Try an optimizer that is not known, on a copy with one small weight of its own.

The copy takes a few steps with the same gradients under different decays and rates; what it does to the weight tells
how the decay acts. Nothing of the training is touched: not its weights, states, hooks, or random numbers.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.optimizers.parameter_groups import Group, number
from gradscope.torch_utils.ranks import distributed

#: What the copy is tried with; the momentum where it has such a setting. RAdam adapts from its 6th step on.
DECAY, RATE, STEPS, MOMENTUM = 0.1, 0.002, 8, 0.9
#: Numbers in attributes of an optimizer, beside its parameters and state, above which it is not copied.
MOST_NUMBERS = 1 << 20
#: A decay as good as none: at 0, some leave more out than the decay.
LEAST = 1e-6
#: The share of a weight below which a step at rest takes nothing.
AT_REST = 1e-5
#: How far the shares of a weight that a decay takes away may lie apart and still be one, for entries and for steps.
ALIKE, STEADY = 0.25, 0.15
#: Part of what a decay does within which a gradient that holds it has to do the same.
SAME = 0.02


@dataclass(frozen=True)
class Behaviour:
    """What a trial shows of an optimizer; attributes as in `decay.Decay`."""

    acts: str
    times_rate: bool
    adaptive: bool


def behaviour(optimizer: Optimizer, group: Group) -> Behaviour | None:
    """Try a copy of this optimizer on a weight of this group; None where it cannot be copied or does not step."""
    if distributed():
        return None  # its step may talk to other ranks
    try:
        with _unnoticed(_like(group).device):
            return _seen(optimizer, group)
    except Exception:  # a stranger's code, on arguments that it was not made for
        return None


def taken_at_rest(optimizer: Optimizer, group: Group) -> float:
    """Measure the share of a weight that a step takes where gradients and ``weight_decay`` are 0.

    Of the smallest share with no ``weight_decay`` and with one as good as none: an optimizer that normalises makes a
    whole step of the least decay, and one that leaves out more than the decay at 0 tells nothing there.

    Returns:
        The share, 0 where a step takes none, or not the same of every entry: then the decay goes through a gradient
        that is normalised, and what it takes beside a gradient from the data, the trial does not tell.
    """
    if distributed():
        return 0.0
    rate = number(group.get("lr"))
    found = float("inf")
    try:
        with _unnoticed(_like(group).device):
            for decay in (LEAST, 0.0):
                sizes = _path(optimizer, group, decay, rate if rate > 0 else RATE, 0.0, STEPS, 0.0).abs()
                shares = 1 - sizes[1:] / sizes[:-1]
                mean = shares.mean(1, keepdim=True)
                alike = decay > 0 or bool(((shares - mean).abs() < ALIKE * mean).all())
                if not (alike and bool((shares > AT_REST).all()) and bool((sizes > 0).all())):
                    return 0.0
                found = min(found, float(shares.mean()))
    except Exception:  # a stranger's code, on arguments that it was not made for
        return 0.0
    return found


def _seen(optimizer: Optimizer, group: Group) -> Behaviour | None:
    def path(decay: float, rate: float = RATE, scale: float = 1.0, until: int = STEPS, given: float = 0.0) -> Tensor:
        return _path(optimizer, group, decay, rate, scale, until, given)

    without, big = path(LEAST), path(LEAST, scale=8.0)
    size, grown = (without[-1] - without[-2]).norm(), (big[-1] - big[-2]).norm()
    if not size > 0 or not without.isfinite().all():
        return None
    adaptive = not bool(grown > 4 * size)
    unknown = Behaviour("unknown", True, adaptive)
    decayed, through = path(DECAY), path(LEAST, given=DECAY)
    if (decayed - through).norm() < SAME * (decayed - without).norm():
        return Behaviour("coupled", True, adaptive)
    shares = _shares(decayed, without)
    if shares is None:
        return unknown
    if max(shares) > (1 + STEADY) * shares[0]:  # does it gather in a momentum, or does the rate grow?
        last = _shares(path(DECAY, until=STEPS - 1), without, STEPS - 1)
        if last is None or last[-1] > STEADY * shares[-2]:
            return unknown
    if number(group.get("lr")) != number(group.get("lr")):  # no rate to go by
        return Behaviour("decoupled", True, adaptive)
    half = _shares(path(DECAY, RATE / 2), path(LEAST, RATE / 2))
    ratio = shares[0] / half[0] if half else 0.0
    if abs(ratio - 2) < 0.1:
        return Behaviour("decoupled", True, adaptive)
    if abs(ratio - 1) < 0.1:  # either of its own size, or times a rate of its own
        return Behaviour("decoupled", abs(shares[0] - DECAY) > 0.1 * DECAY, adaptive)
    return unknown


def _shares(decayed: Tensor, without: Tensor, alike: int = STEPS) -> list[float] | None:
    """Compute the share of the weight that the decay takes in each step.

    The first steps of some take nothing: they only gather. Only the first ``alike`` steps have to be alike.

    Returns:
        One share a step, None unless it is the same for all entries.
    """
    apart = decayed - without
    found: list[float] = []
    for step in range(STEPS):
        shares = (apart[step] - apart[step + 1]) / decayed[step]
        mean = float(shares.mean())
        if not found and bool((apart[step + 1] == 0).all()):
            continue
        if step < alike and not (mean > 1e-6 and float((shares - mean).abs().max()) < ALIKE * mean):
            return None
        found.append(mean)
    return found or None


def _like(group: Group) -> Tensor:
    """Return the parameter that the small weight stands for."""
    found: Tensor = next((p for p in group["params"] if p.ndim > 1), group["params"][0])
    return found


def _seed(device: torch.device) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)


def _path(
    optimizer: Optimizer, group: Group, decay: float, rate: float, scale: float, until: int, given: float
) -> Tensor:
    """Step a copy of the optimizer and return the weight before and after each step.

    Args:
        optimizer: the optimizer to copy.
        group: the group whose settings it takes.
        decay: ``weight_decay`` of the copy.
        rate: learning rate of the copy.
        scale: factor of the gradients.
        until: steps with the decay.
        given: a decay that the gradients hold already.

    Returns:
        The weight in float64, [STEPS + 1, entries].
    """
    like = _like(group)
    _seed(like.device)
    shape = [min(n, 4) for n in like.shape]
    generator = torch.Generator().manual_seed(5)
    kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # a script may have set other defaults
    size = torch.empty(shape, **kind).uniform_(0.5, 1.5, generator=generator)
    weight = nn.Parameter((size * torch.randn(shape, generator=generator, **kind).sign()).to(like.device))
    vars(weight).update(vars(like))
    twin = _copy(optimizer, group, like, weight)
    settings = twin.param_groups[0]
    settings["weight_decay"] = decay
    if settings.get("momentum") == 0:
        settings["momentum"] = MOMENTUM
    if isinstance(settings.get("lr"), Tensor):
        settings["lr"] = torch.full_like(settings["lr"], rate, requires_grad=False)
    elif number(settings.get("lr")) == number(settings.get("lr")):
        settings["lr"] = rate
    if callable(getattr(twin, "train", None)):  # schedule-free ones have a mode
        twin.train()  # type: ignore[attr-defined]
    step = type(optimizer).step
    step = getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step
    path = [weight.detach().double().flatten().clone()]
    for taken in range(STEPS):
        if taken == until:
            settings["weight_decay"] = LEAST
        gradient = (scale * torch.randn(shape, generator=generator, **kind)).to(like.device)
        weight.grad = gradient + given * weight.detach()
        step(twin)
        path.append(weight.detach().double().flatten().clone())
    return torch.stack(path)


def _copy(optimizer: Optimizer, group: Group, like: Tensor, weight: Tensor) -> Optimizer:
    """Copy an optimizer to one weight, as fresh as one that was never used, with no hooks."""
    own = {name: value for name, value in vars(optimizer).items() if name not in ("state", "param_groups", "step")}
    hooks = [name for name in own if name.endswith("_hooks")]
    if sum(_numbers(value) for value in own.values()) > MOST_NUMBERS:
        raise ValueError("too large to be copied")
    twin: Optimizer = object.__new__(type(optimizer))
    memo: dict[int, Any] = {id(p): weight for g in optimizer.param_groups for p in g["params"]}
    memo |= {id(optimizer): twin, id(optimizer.state): defaultdict(dict)}
    rest = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    twin.__dict__.update(copy.deepcopy({n: v for n, v in own.items() if n not in hooks}, memo))
    twin.__dict__.update({name: OrderedDict() for name in hooks})
    twin.state = defaultdict(dict)
    twin.param_groups = [{**copy.deepcopy(rest, memo), "params": [weight]}]
    return twin


def _numbers(value: Any, depth: int = 3) -> int:
    """Count the entries of the tensors in an attribute."""
    if isinstance(value, nn.Parameter):
        return 0
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, nn.Module):
        return MOST_NUMBERS + 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_numbers(part, depth - 1) for part in parts) if depth else 0


@contextlib.contextmanager
def _unnoticed(device: torch.device) -> Iterator[None]:
    """Preserve random states, silence warnings and keep torch from compiling."""
    numbers, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(numpys)  # noqa: NPY002
