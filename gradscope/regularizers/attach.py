"""Put a penalty on weights into an optimizer through its step hooks, with ``.grad`` still the pure loss gradient.

During ``step()`` the gradient that the optimizer sees is ``grad + λ_t·∂Ω/∂w``. Proximal penalties act on the weights
after the update, with threshold lr·λ_t: the Euclidean map, whatever the optimizer's own metric is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from gradscope.optimizers.decay import decay_of, torch_class
from gradscope.optimizers.parameter_groups import learning_rate, weight_decay
from gradscope.optimizers.wrapped import the_one
from gradscope.quantities import Strength
from gradscope.regularizers.constrained import CPR
from gradscope.regularizers.cpr import Constrained
from gradscope.regularizers.hooks import Attached, attached_to
from gradscope.regularizers.penalties import L0, L2, Penalty
from gradscope.regularizers.schedule import Schedule, scheduled
from gradscope.torch_utils.selection import SelectTensors, selected_parameters
from gradscope.types import InputError


class ScheduledDecay(Attached):
    """The optimizer's own ``weight_decay``, multiplied over time by a schedule of strength 1."""

    _own: list[Any] | None = None

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        super().__init__(optimizer, schedule, [p for group in optimizer.param_groups for p in group["params"]])

    def _act(self, optimizer: Optimizer) -> None:
        self._put_back()
        self._own = [group.get("weight_decay") for group in optimizer.param_groups]
        for index, group in enumerate(optimizer.param_groups):
            if group.get("weight_decay") is not None:
                group["weight_decay"] = group["weight_decay"] * self.now(index)

    def _put_back(self, stale: bool = False) -> None:
        if self._own is not None and (optimizer := self._optimizer()) is not None:
            for group, own in zip(optimizer.param_groups, self._own, strict=False):
                if "weight_decay" in group:
                    group["weight_decay"] = own
        self._own = None


class Regularization(Attached):
    """Penalty with its schedule on some parameters of one optimizer, as `regularize` returns it.

    Args:
        optimizer: the optimizer that steps.
        penalty: Ω.
        schedule: its strength over time.
        parameters: those that are penalised.
        replaces_decay: keep the optimizer's own ``weight_decay`` from these parameters; the others go on getting it.
        decoupled: let L2 shrink the weights by lr·2λ instead of going through the gradient.
        steps_per_epoch: lets the schedule count epochs where no recording tells them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        penalty: Penalty,
        schedule: Schedule,
        parameters: list[Tensor],
        *,
        replaces_decay: bool = False,
        decoupled: bool = False,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.penalty = penalty
        self.replaces_decay = replaces_decay
        self.decoupled = decoupled
        self._own: dict[int, Any] = {}  # weight_decay of groups that lend it to us for the time of a step
        self._strengths: list[float] = []
        self._lent: list[int] = []
        self._lent_for: tuple[list[int], int] | None = None
        self._adds_l2 = "l2" in penalty.kinds and not replaces_decay
        self._decayed = False
        super().__init__(optimizer, schedule, parameters, steps_per_epoch=steps_per_epoch)

    def _act(self, optimizer: Optimizer) -> None:
        groups = optimizer.param_groups
        self._strengths = [0.0 if self.suspended else self.now(index) for index in range(len(groups))]
        if self._adds_l2 and not self.suspended and any(weight_decay(group) for group in groups):
            refuse_twice(optimizer, self.penalty, self._members(optimizer))
        lenders = self._lenders(optimizer)
        for index in lenders:
            self._own[index] = groups[index]["weight_decay"]
            groups[index]["weight_decay"] = 2 * self._strengths[index]
        if self.replaces_decay:
            self._hold_back_decay(optimizer)
        if len(lenders) == len(groups) or self.penalty.proximal_step:
            return
        with torch.no_grad():
            for index, group, mine, strength in self._each(optimizer):
                if index not in lenders:
                    self._pull(optimizer, group, mine, self.penalty, strength, self.decoupled)
        self._decayed = True

    def _lenders(self, optimizer: Optimizer) -> list[int]:
        """Return the groups whose ``weight_decay`` holds this L2 for the time of a step, which costs nothing.

        Only in torch's own optimizers, where ``weight_decay`` is known to be read at the step and nowhere else.

        Returns:
            Indices of the groups that are penalised as a whole.
        """
        if not self._adds_l2 or not isinstance(self.penalty, L2):
            return []
        members = self._members(optimizer)
        if self._lent_for != (self._sizes, len(self._beside)):
            self._lent_for = (self._sizes, len(self._beside))
            scheduled = any(isinstance(handle, ScheduledDecay) for handle in self._beside)
            possible = not scheduled and bool(torch_class(optimizer))
            self._lent = [
                index
                for index, (group, mine) in enumerate(zip(optimizer.param_groups, members, strict=True))
                if possible and mine and len(mine) == len(group["params"]) and "weight_decay" in group
                if decay_of(optimizer, group).decoupled == self.decoupled
            ]
        return self._lent

    def _each(self, optimizer: Optimizer) -> list[tuple[int, dict[str, Any], list[Tensor], float]]:
        """List each active group with its index, its penalised parameters that have a gradient, and their strength."""
        rows = zip(optimizer.param_groups, self._members(optimizer), self._strengths, strict=True)
        live = (
            (index, group, [p for p in mine if p.grad is not None], strength)
            for index, (group, mine, strength) in enumerate(rows)
            if strength
        )
        return [row for row in live if row[2]]

    @torch.no_grad()
    def _hold_back_decay(self, optimizer: Optimizer) -> None:
        for index, group in enumerate(optimizer.param_groups):
            if decay := weight_decay(group):
                self._own[index], group["weight_decay"] = group["weight_decay"], 0.0
                others = [p for p in group["params"] if p.grad is not None and id(p) not in self.parameters]
                self._pull(optimizer, group, others, L2(), decay / 2, decay_of(optimizer, group).decoupled)

    def _pull(
        self,
        optimizer: Optimizer,
        group: dict[str, Any],
        parameters: list[Tensor],
        penalty: Penalty,
        strength: float,
        decoupled: bool,
    ) -> None:
        if not parameters:
            return
        if decoupled:
            self._decay(optimizer, parameters, learning_rate(group, "decoupled l2") * 2 * strength)
            return
        gradients: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]
        scale = -strength if group.get("maximize") else strength
        grad_scale = getattr(optimizer, "grad_scale", None)
        try:
            if grad_scale is None:
                shown = penalty.add_to(gradients, parameters, scale)
            else:  # a fused optimizer under GradScaler: what it sees is still scaled, and so must be what is added
                pulls = torch._foreach_mul(penalty.gradients(parameters), scale)
                torch._foreach_mul_(pulls, grad_scale)
                shown = torch._foreach_add(gradients, pulls)
        except RuntimeError as error:
            if any(g.is_sparse for g in gradients):
                raise InputError("a penalty cannot be added to sparse gradients; leave them out by select=…") from error
            raise
        self._show(parameters, gradients, shown)

    def _decay(self, optimizer: Optimizer, parameters: list[Tensor], share: float) -> None:
        if self._decayed:  # by an earlier call of this step's closure
            return
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None:
            torch._foreach_mul_(parameters, 1 - share)
        else:
            torch._foreach_mul_(parameters, 1 - share * (1 - found_inf.clamp_max(1)))

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._decayed = False
        return super()._before(optimizer, args, kwargs)

    def _objective(self, loss: Any) -> Any:
        optimizer = self._optimizer()
        if not isinstance(optimizer, LBFGS):
            return loss
        # A line search compares values: they have to be those whose gradient it sees.
        with torch.no_grad():
            for _, _, mine, strength in self._each(optimizer):
                loss = loss + strength * torch.stack([self.penalty.value(p) for p in mine]).sum()
        return loss

    def _finish(self, optimizer: Optimizer) -> None:
        if self.penalty.proximal_step:
            self._shrink(optimizer)

    @torch.no_grad()
    def _shrink(self, optimizer: Optimizer) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        for _, group, mine, strength in self._each(optimizer):
            threshold = learning_rate(group, self.penalty.name) * strength
            if found_inf is None:
                self.penalty.shrink_(mine, threshold)
            else:
                for p in mine:
                    p.copy_(torch.where(found_inf > 0, p, self.penalty.proximal(p, threshold)))

    def _put_back(self, stale: bool = False) -> None:
        super()._put_back(stale)
        if self._own and (optimizer := self._optimizer()) is not None:
            for index, own in self._own.items():
                if "weight_decay" in optimizer.param_groups[index]:
                    optimizer.param_groups[index]["weight_decay"] = own
        self._own = {}

    def __repr__(self) -> str:
        return (
            f"<{self.penalty.name} of {Strength(self.schedule.strength, self.penalty.name)}, "
            f"{self.schedule.text}, "
            f"on {len(self.parameters)} parameters>"
        )


def regularize(
    optimizer: Optimizer,
    penalty: Penalty,
    schedule: Schedule | float,
    select: SelectTensors | None = None,
    *,
    model: nn.Module | None = None,
    decoupled: bool = False,
    steps_per_epoch: int | None = None,
) -> Regularization | Constrained:
    """Apply λ_t·∂Ω/∂w, or the proximal step, at every ``optimizer.step()``; ``.grad`` stays ∂L/∂w.

    Args:
        optimizer: any torch optimizer, with or without a closure, fused, under GradScaler or not; of one that wraps
            another (Accelerate's, SAM, Lookahead), the one inside.
        penalty: Ω, such as ``L2()``.
        schedule: its strength over time, or a controller such as ``AutoL2()`` or ``CPR()``. A number is a strength that
            does not change, ``Constant(number)``.
        select: which parameters: a regular expression on names, a predicate ``(name, parameter) -> bool`` (one of a
            single argument is given the parameter), a type of module (its weights), or the parameters themselves.
            Without it, every parameter with more than one dimension. For different strengths in
            different places, call `regularize` once for each.
        model: where names and modules are looked up; names are known without it if the optimizer was made of
            ``model.named_parameters()``.
        decoupled: L2 shrinks the weights by lr·2λ beside the update, as AdamW's decay does.
        steps_per_epoch: lets a schedule count epochs where no recording tells them.

    Returns:
        The handle: ``detach()`` takes the penalty off, ``now()`` is its strength, ``state_dict()`` goes into a
        checkpoint.

    Raises:
        InputError: nothing is selected, a parameter would get the same penalty twice, or the optimizer cannot apply
            this penalty.

    Examples:
        >>> regularize(optimizer, L2(), Delayed(0.006, epochs=5))
        <l2 of weight_decay 0.012 (λ 0.006), delayed:5, on 2 parameters>
    """
    if not isinstance(penalty, Penalty):
        raise InputError(f"penalty is {penalty!r}; expected a penalty such as gradscope.L2()")
    schedule = scheduled(schedule)
    optimizer = the_one(optimizer)
    if isinstance(penalty, L0):
        raise InputError("l0 counts weights and has no gradient, so it cannot be applied; take L1() for exact zeros")
    if penalty.proximal_step and isinstance(optimizer, LBFGS):
        raise InputError(
            f"{penalty.name} acts by a step after the update, which the curvature that LBFGS remembers knows nothing "
            f"of; take another optimizer, or Lp(p) with p near 1"
        )
    if decoupled and not isinstance(penalty, L2):
        raise InputError(f"decoupled is for L2 alone, as AdamW's decay; the penalty is {penalty.name}")
    parameters = selected_parameters(optimizer, select, model)
    if penalty.proximal_step or decoupled:
        ids = {id(p) for p in parameters}
        for group in optimizer.param_groups:
            if not ids.isdisjoint(map(id, group["params"])):
                learning_rate(group, "decoupled l2" if decoupled else penalty.name)
    refuse_twice(optimizer, penalty, [list(g["params"]) for g in optimizer.param_groups], only=parameters)
    if isinstance(schedule, CPR):
        if not isinstance(penalty, L2):
            raise InputError(f"CPR here bounds ‖w‖², so the penalty has to be L2(); it is {penalty.name}")
        return Constrained(optimizer, schedule, parameters)
    return Regularization(
        optimizer, penalty, schedule, parameters, decoupled=decoupled, steps_per_epoch=steps_per_epoch
    )


def refuse_twice(
    optimizer: Optimizer, penalty: Penalty, members: Sequence[list[Tensor]], only: list[Tensor] | None = None
) -> None:
    """Check that no parameter gets one penalty twice, from `regularize` or from ``weight_decay``.

    Args:
        optimizer: the optimizer that steps.
        penalty: the penalty that is to act.
        members: the parameters of each group that it acts on.
        only: parameters about to be chosen; with it, penalties already attached are checked too.

    Raises:
        InputError: a parameter would get the penalty twice.
    """
    ids = None if only is None else {id(p) for p in only}
    for group, mine in zip(optimizer.param_groups, members, strict=True):
        if not ("l2" in penalty.kinds and weight_decay(group)):
            continue
        if twice := [p for p in mine if ids is None or id(p) in ids]:
            raise InputError(
                f"{penalty.name} would act twice on {len(twice)} parameters: the optimizer's weight_decay is "
                f"{weight_decay(group):g} there; set it to 0, or leave them out by select=…"
            )
    if ids is None:
        return
    for other in attached_to(optimizer):
        same = isinstance(other, Regularization | Constrained) and penalty.kinds & other.penalty.kinds
        if same and (shared := ids & other.parameters):
            raise InputError(
                f"{penalty.name} would act twice on {len(shared)} parameters: {other!r} is on them already; "
                f"detach() that one first, or leave them out by select=…"
            )
