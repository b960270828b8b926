"""Optimizers that hold another one, made the ways public ones are made; each small, none copied."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer


class Delegating(Optimizer):
    """As Accelerate's: everything is the inner one's, and ``Optimizer.__init__`` is never called."""

    def __init__(self, inner: Any) -> None:
        self.optimizer = inner

    param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]
    state = property(lambda self: self.optimizer.state)  # type: ignore[assignment]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.optimizer.step(closure)


class Disguised:
    """As Fabric's and Lightning's: no optimizer at all, until it takes a class that inherits from the inner one's."""

    def __init__(self, inner: Optimizer) -> None:
        self._optimizer = inner
        self.__class__ = type("Disguised" + type(inner).__name__, (Disguised, type(inner)), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step() if closure is None else self._optimizer.step(closure)


class Hooked(Optimizer):
    """With ``Optimizer.__init__``, so that its own hooks work, too."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, inner.defaults)
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.inner.step(closure)


class Slow(Optimizer):
    """Lookahead as in timm: has the dictionaries of hooks, and a ``step`` that never calls them."""

    def __init__(self, base: Optimizer) -> None:
        self._optimizer_step_pre_hooks: Any = OrderedDict()
        self._optimizer_step_post_hooks: Any = OrderedDict()
        self._base_optimizer, self.param_groups, self.defaults = base, base.param_groups, base.defaults
        self.state = defaultdict(dict)
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = self._base_optimizer.step(closure)
        self.count += 1
        if self.count % 3 == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            torch._foreach_lerp_(self.slow, fast, 0.5)
            torch._foreach_copy_(fast, self.slow)
        return loss


class Sharp(Optimizer):
    """Sharpness-aware: climbs, and lets a base optimizer step with the gradient from there."""

    def __init__(self, parameters: Any, base: Any = SGD, rho: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.climbs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def first_step(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        self.climbs = [(p, p.grad * (0.05 / norm)) for p in parameters]
        for p, climb in self.climbs:
            p.add_(climb)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for p, climb in self.climbs:
            p.sub_(climb)
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        again = torch.enable_grad()(closure)
        self.first_step()
        loss = again()
        self.second_step()
        return loss


class Averaging:
    """As Schedule-Free's wrapper: looks like an optimizer, and inherits from nothing."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    param_groups = property(lambda self: self.base.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


class Several(Optimizer):
    """A container of optimizers, one a part of the model, in a list."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = list(optimizers)
        super().__init__([p for o in optimizers for g in o.param_groups for p in g["params"]], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()


class Sharded(Optimizer):
    """As `ZeroRedundancyOptimizer`: the inner one has only this rank's share of the parameters."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(list(parameters), {"lr": lr})
        mine = self.param_groups[0]["params"]
        self.optim = SGD(mine[: len(mine) // 2], lr=lr)
        self.of_others = mine[len(mine) // 2 :]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optim.step()
        for p in self.of_others:
            p.sub_(p.grad, alpha=self.param_groups[0]["lr"])


class Warm(SGD):
    """Does something of its own, and calls ``super().step()``: one step all the same."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            group["lr"] = 0.1
        return super().step(closure)


class Warmer(Warm):
    """Twice nested, and twice called."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        super().step(closure)
        return super().step()


def halves(model: torch.nn.Sequential) -> Several:
    return Several(SGD(model[:2].parameters(), lr=0.1), Adam(model[2:].parameters(), lr=0.01))
