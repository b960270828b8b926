"""Measure what a step does to the weights (preset ``full``): its size, its penalty's share, whether gradients agree.

Under an adaptive or decoupled optimizer the proportion of the gradients is not that of what moves the weights: coupled
decay goes through the moments, decoupled decay does not. Here the change of the weights itself is split, Δw = Δw_L +
Δw_R, where Δw_R is what the penalty has contributed. All the optimizers below are linear in the gradient but for their
denominator, so Δw_R follows a first moment of its own, kept beside the optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.decay import torch_class
from gradscope.recorder.fields import Field
from gradscope.recorder.kernels.kinds import entries, is_familiar
from gradscope.recorder.kernels.table import TablePlan
from gradscope.recorder.memory import zeros, zeros_like
from gradscope.recorder.meter import local
from gradscope.recorder.ring import FIXED, Ring

#: (through, beside): λ∂Ω/∂w that goes through the optimizer's gradient, and λ∂Ω/∂w that acts on the weights directly
#: (decoupled decay, proximal steps), one tensor or None a parameter. The flag: whether the second is wanted.
Pulls = Callable[[Sequence[Tensor], bool], tuple[list[Tensor | None], list[Tensor | None]]]

ADAM, SGD, ADAMAX = ("Adam", "AdamW"), ("SGD",), ("Adamax",)
SPLIT = (*SGD, *ADAM, *ADAMAX)


class UpdateMeter:
    """Meter of the steps of one optimizer on ``weights`` ([P] parameters; of sharded ones this rank's shard)."""

    def __init__(self, number: int, optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
        self.optimizer, self._parameters = optimizer, list(weights)
        self.size, self.split, self.along = f"update{number}", f"split{number}", f"along{number}"
        self._kind = torch_class(optimizer)
        self.knows_split = self._kind in SPLIT
        self._lost: set[int] = set()  # whose entries could not be had, or are no more of the same shape
        self._before = [self._stand_in(i, local(w.detach())) for i, w in enumerate(self._parameters)]
        self._current = [zeros_like(b) for b in self._before]
        self._previous = [zeros_like(b) for b in self._before]
        self._l1 = TablePlan(self._before, ("gradient_l1",))
        self._dot = TablePlan(self._before, ("dot",))
        self._moment: dict[int, Tensor] = {}  # the penalty's share of the optimizer's first moment, by place
        self._nothing: dict[int, Tensor] = {}
        self._begun = False
        self._pulls: tuple[list[Tensor | None], list[Tensor | None]] | None = None
        self._row: int | None = None

    def fields(self) -> dict[str, Field]:
        """Return what the ring keeps for it."""
        heights = {self.size: 1, self.split: 2, self.along: 1}
        return {n: Field((h, len(self._parameters)), "sum", self._parameters) for n, h in heights.items()}

    def forget(self, lost: Iterable[int]) -> None:
        """Forget weights that are no longer the optimizer's."""
        self._lost.update(lost)

    def _stand_in(self, i: int, tensor: Tensor) -> Tensor:
        """Create zeros in a tensor's shape; nothing, where its entries cannot be read."""
        try:
            return zeros_like(entries(tensor))
        except Exception:
            self._lost.add(i)
            return zeros((0,), tensor.device)

    def _followed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the entries of the parameters, or their gradients; stand-ins for what is not what it was."""
        found = []
        for i, (tensor, before) in enumerate(zip(tensors, self._before, strict=True)):
            if i not in self._lost:
                try:
                    t = tensor.detach() if is_familiar(tensor) else entries(tensor)
                except Exception:
                    self._lost.add(i)
                else:
                    if t.shape == before.shape and t.device == before.device:
                        found.append(t)
                        continue
                    self._lost.add(i)
            found.append(before)
        return found

    def _weights(self) -> list[Tensor]:
        return self._followed([local(w.detach()) for w in self._parameters])

    def _without_the_lost(self, table: Tensor) -> None:
        for i in self._lost:
            table[:, i] = float("nan")

    def measured(self, gradients: Sequence[Tensor | None], ring: Ring, row: int) -> None:
        """Compute ⟨g, the gradient of the last recorded step⟩, and keep g for the next."""
        present = [g if g is not None else torch.zeros_like(c) for g, c in zip(gradients, self._current, strict=True)]
        present = self._followed(present)
        self._dot(self._previous, present, ring.view(self.along, row))
        self._without_the_lost(ring.view(self.along, row))
        torch._foreach_copy_(self._current, present)

    def before_step(self, row: int | None, pulls: Pulls) -> None:
        """Keep the weights as they are, and what the penalties are about to do. ``row``: None in steps not recorded."""
        self._row = row
        if row is not None:
            torch._foreach_copy_(self._before, self._weights())
            if row != FIXED:
                self.keep()
        if self.knows_split:
            followed = [i for i in range(len(self._parameters)) if i not in self._lost]
            through, beside = pulls([self._parameters[i] for i in followed], row is not None)
            self._pulls = self._spread(followed, through), self._spread(followed, beside)

    def _spread(self, followed: Sequence[int], pulls: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return this rank's part of what is known of some parameters, a tensor or None a parameter."""
        found = dict(zip(followed, pulls, strict=True))
        return [None if (t := found.get(i)) is None else local(t) for i in range(len(self._parameters))]

    def keep(self) -> None:
        """Keep the latest gradient as that of a row: the next is compared with it.

        A copy and no exchange of names, which no graph repeats; outside of graphs, for not every replay is a row.
        """
        torch._foreach_copy_(self._previous, self._current)

    def after_step(self, ring: Ring) -> None:
        """Compute Σ|Δw|, and Σ|Δw_L|, Σ|Δw_R|."""
        penalty = self._penalty_share() if self.knows_split and self._pulls is not None else None
        if self._row is None:
            return
        weights = self._weights()
        change = torch._foreach_sub(weights, self._before)
        self._l1(weights, change, ring.view(self.size, self._row))
        self._without_the_lost(ring.view(self.size, self._row))
        if penalty is not None:
            split, at = ring.view(self.split, self._row), list(penalty)
            loss = dict(enumerate(change))
            if at:
                loss.update(zip(at, torch._foreach_sub([loss[i] for i in at], list(penalty.values())), strict=True))
                shares = [penalty[i] if i in penalty else self._nothing_of(i) for i in loss]
                self._l1(weights, shares, split[1:])
            else:
                split[1:].zero_()
            self._l1(weights, list(loss.values()), split[:1])
            self._without_the_lost(split)
        self._row = None

    def _nothing_of(self, i: int) -> Tensor:
        """Return zeros in the shape of a parameter without a penalty, mostly a bias."""
        if i not in self._nothing:
            self._nothing[i] = zeros_like(self._before[i])
        return self._nothing[i]

    def _penalty_share(self) -> dict[int, Tensor]:
        """Compute Δw_R of the step just taken, by place of a parameter; without those that no penalty acts on."""
        assert self._pulls is not None
        through, beside = self._pulls
        self._pulls = None
        first, self._begun = not self._begun, True
        place = {id(w): i for i, w in enumerate(self._parameters) if i not in self._lost}
        found: dict[int, Tensor] = {}
        for group in self.optimizer.param_groups:
            mine = [place[id(p)] for p in group["params"] if id(p) in place]
            coupled = [i for i in mine if (through[i] is not None or i in self._moment) and self._has_begun(i)]
            if coupled:
                pulls = [self._nothing_of(i) if (t := through[i]) is None else t for i in coupled]
                moments = self._next_moments(group, coupled, pulls, first)
                found.update(zip(coupled, self._moved(group, coupled, moments, pulls), strict=True))
            if direct := [(i, t) for i in mine if (t := beside[i]) is not None]:
                shares = torch._foreach_mul([t for _, t in direct], -group["lr"])
                for (i, _), share in zip(direct, shares, strict=True):
                    found[i] = found[i] + share if i in found else share
        overflow = getattr(self.optimizer, "found_inf", None)
        return found if overflow is None else {i: t * (overflow.to(t.device) == 0) for i, t in found.items()}

    def _has_begun(self, i: int) -> bool:
        """Return whether the optimizer has stepped a parameter, as far as it counts."""
        return self._kind in SGD or "step" in self.optimizer.state.get(self._parameters[i], {})

    def _next_moments(
        self, group: dict[str, Any], at: Sequence[int], pulls: Sequence[Tensor], first: bool
    ) -> list[Tensor]:
        """Update the penalty's share of the first moments. ``first``: the step is the first that is watched."""
        for i in at:
            if i not in self._moment:
                self._moment[i] = zeros_like(self._current[i])
        moments = [self._moment[i] for i in at]
        if self._kind in SGD:
            keep, take = float(group["momentum"]), 1 - float(group["dampening"])
            if first or not keep:
                keep, take = 0.0, 1.0
        else:
            keep = float(group["betas"][0])
            take = 1 - keep
        after = list(torch._foreach_add(torch._foreach_mul(moments, keep), list(pulls), alpha=take))
        overflow = getattr(self.optimizer, "found_inf", None)
        if overflow is not None:  # a fused step that skips itself leaves every moment as it was
            pairs = zip(moments, after, strict=True)
            after = [torch.where(overflow.to(new.device) > 0, old, new) for old, new in pairs]
        torch._foreach_copy_(moments, after)  # in place, for a replayed graph reads them where they lay
        return after

    def _moved(
        self, group: dict[str, Any], at: Sequence[int], moments: list[Tensor], pulls: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Compute −lr · moment / denominator, as each optimizer's documentation has it."""
        lr = group["lr"]
        if self._kind in SGD:
            if group.get("nesterov"):
                moments = list(torch._foreach_add(list(pulls), moments, alpha=float(group["momentum"])))
            return torch._foreach_mul(moments, -lr)
        states = [self.optimizer.state[self._parameters[i]] for i in at]
        beta1, beta2 = (float(b) for b in group["betas"])
        steps = [_number(state["step"]) for state in states]
        ahead = torch._foreach_mul(moments, [-lr / (1 - beta1**step) for step in steps])
        if self._kind in ADAMAX:
            return torch._foreach_div(ahead, [local(state["exp_inf"]) for state in states])
        name = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
        roots = torch._foreach_sqrt([local(state[name]) for state in states])
        roots = torch._foreach_div(roots, [(1 - beta2**step) ** 0.5 for step in steps])
        return torch._foreach_div(ahead, torch._foreach_add(roots, group["eps"]))


def _number(step: Any) -> Any:
    """Return an optimizer's count of steps, as a number where reading it waits for no device."""
    if not isinstance(step, Tensor):
        return step
    return float(step.numpy()) if step.is_cpu else step
