"""What a step does to the weights (preset ``full``): its size, its penalty's share, and whether gradients agree.

Under an adaptive or decoupled optimizer the proportion of the gradients is not that of what moves the weights:
coupled decay goes through the moments, decoupled decay does not. Here the change of the weights itself is split,
Δw = Δw_L + Δw_R, where Δw_R is what the penalty has contributed. All the optimizers below are linear in the gradient
but for their denominator, so Δw_R follows a first moment of its own, kept beside the optimizer's.
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
#: (decoupled decay, proximal steps), one tensor or None a parameter.
Pulls = Callable[[Sequence[Tensor]], tuple[list[Tensor | None], list[Tensor | None]]]

ADAM, SGD, ADAMAX = ("Adam", "AdamW"), ("SGD",), ("Adamax",)
SPLIT = (*SGD, *ADAM, *ADAMAX)


class UpdateMeter:
    """Measures the steps of one optimizer on ``weights`` ([P] parameters; of sharded ones this rank's shard)."""

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
        self._moment: list[Tensor] = []  # the penalty's share of the optimizer's first moment
        self._pulls: tuple[list[Tensor | None], list[Tensor | None]] | None = None
        self._row: int | None = None

    def fields(self) -> dict[str, Field]:
        """What the ring keeps for it."""
        heights = {self.size: 1, self.split: 2, self.along: 1}
        return {n: Field((h, len(self._parameters)), "sum", self._parameters) for n, h in heights.items()}

    def forget(self, lost: Iterable[int]) -> None:
        """These weights are no more the optimizer's."""
        self._lost.update(lost)

    def _stand_in(self, i: int, tensor: Tensor) -> Tensor:
        """Zeros in a tensor's shape; nothing, where its entries cannot be had."""
        try:
            return zeros_like(entries(tensor))
        except Exception:
            self._lost.add(i)
            return zeros((0,), tensor.device)

    def _followed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The entries of the parameters, or their gradients; stand-ins for what is not what it was."""
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
        """⟨g, the gradient of the last recorded step⟩, and keep g for the next."""
        present = [g if g is not None else torch.zeros_like(c) for g, c in zip(gradients, self._current, strict=True)]
        present = self._followed(present)
        self._dot(self._previous, present, ring.view(self.along, row))
        self._without_the_lost(ring.view(self.along, row))
        torch._foreach_copy_(self._current, present)

    def before_step(self, row: int | None, pulls: Pulls) -> None:
        """The weights as they are, and what the penalties are about to do. ``row``: None in steps not recorded."""
        self._row = row
        if row is not None:
            torch._foreach_copy_(self._before, self._weights())
            if row != FIXED:
                self.keep()
        if self.knows_split:
            followed = [i for i in range(len(self._parameters)) if i not in self._lost]
            through, beside = pulls([self._parameters[i] for i in followed])
            self._pulls = self._spread(followed, through), self._spread(followed, beside)

    def _spread(self, followed: Sequence[int], pulls: Sequence[Tensor | None]) -> list[Tensor | None]:
        """This rank's part of what is known of some parameters, a tensor or None a parameter."""
        found = dict(zip(followed, pulls, strict=True))
        return [None if (t := found.get(i)) is None else local(t) for i in range(len(self._parameters))]

    def keep(self) -> None:
        """The latest gradient is that of a row: the next is compared with it.

        A copy and no exchange of names, which no graph repeats; outside of graphs, for not every replay is a row.
        """
        torch._foreach_copy_(self._previous, self._current)

    def after_step(self, ring: Ring) -> None:
        """Σ|Δw|, and Σ|Δw_L|, Σ|Δw_R|."""
        penalty = self._penalty_share() if self.knows_split and self._pulls is not None else None
        if self._row is None:
            return
        weights = self._weights()
        change = torch._foreach_sub(weights, self._before)
        self._l1(weights, change, ring.view(self.size, self._row))
        self._without_the_lost(ring.view(self.size, self._row))
        if penalty is not None:
            split = ring.view(self.split, self._row)
            self._l1(weights, torch._foreach_sub(change, penalty), split[:1])
            self._l1(weights, penalty, split[1:])
            self._without_the_lost(split)
        self._row = None

    def _penalty_share(self) -> list[Tensor]:
        """Δw_R of the step just taken, one tensor a parameter."""
        assert self._pulls is not None
        through, beside = self._pulls
        self._pulls = None
        nothing = [zeros_like(w) for w in self._current]
        pull = [n if t is None else t for t, n in zip(through, nothing, strict=True)]
        first = not self._moment
        if first:
            self._moment = [zeros_like(w) for w in self._current]
        group_of = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        overflow = getattr(self.optimizer, "found_inf", None)
        shares = []
        for i, w in enumerate(self._parameters):
            group, state = group_of.get(id(w)), self.optimizer.state.get(w, {})
            if group is None or i in self._lost:
                shares.append(nothing[i])
                continue
            moment = self._next_moment(group, self._moment[i], pull[i], first)
            if overflow is not None:  # a fused step that skips itself leaves every moment as it was
                moment = torch.where(overflow.to(moment.device) > 0, self._moment[i], moment)
            self._moment[i].copy_(moment)  # in place, for a replayed graph reads it where it lay
            share = self._moved(group, state, moment, pull[i])
            if (direct := beside[i]) is not None:
                share = share - group["lr"] * direct
            shares.append(share if overflow is None else share * (overflow.to(moment.device) == 0))
        return shares

    def _next_moment(self, group: dict[str, Any], moment: Tensor, pull: Tensor, first: bool) -> Tensor:
        if self._kind in SGD:
            mu, damping = float(group["momentum"]), float(group["dampening"])
            return pull.clone() if first or not mu else mu * moment + (1 - damping) * pull
        beta = float(group["betas"][0])
        return beta * moment + (1 - beta) * pull

    def _moved(self, group: dict[str, Any], state: dict[str, Any], moment: Tensor, pull: Tensor) -> Tensor:
        """−lr · moment / denominator, as each optimizer's documentation has it."""
        name, lr = self._kind, group["lr"]
        if name in SGD:
            return moment.mul(-lr) if not group.get("nesterov") else (pull + group["momentum"] * moment).mul(-lr)
        if "step" not in state:
            return torch.zeros_like(moment)
        beta1, beta2 = (float(b) for b in group["betas"])
        steps = state["step"]  # a tensor, perhaps on the device: the arithmetic stays there
        ahead = moment.mul(-lr / (1 - beta1**steps))
        if name in ADAMAX:
            return ahead.div(local(state["exp_inf"]))
        second: Tensor = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
        return ahead.div(local(second).sqrt() / (1 - beta2**steps) ** 0.5 + group["eps"])
