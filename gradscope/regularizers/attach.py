"""How a penalty reaches an optimizer: through its step hooks, leaving ``.grad`` the pure loss gradient.

During ``step()`` the gradient that the optimizer sees is ``grad + λ_t·∂Ω/∂w``, in a tensor of its
own; afterwards ``.grad`` is the loss gradient again, bit for bit. Proximal penalties act on the
weights after the update, with threshold lr·λ_t.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.regularizers.penalties import L2, Penalty
from gradscope.regularizers.schedules import Schedule
from gradscope.types import InputError

Select = Callable[[Tensor], bool] | Iterable[Tensor]

_ATTACHED: weakref.WeakKeyDictionary[Optimizer, list[_Attached]] = weakref.WeakKeyDictionary()


def attached_to(optimizer: Optimizer) -> list[_Attached]:
    """What `regularize` and the environment have put on this optimizer, oldest first."""
    return list(_ATTACHED.get(optimizer, ()))


def is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether this group's ``weight_decay`` shrinks the weights directly (AdamW and its kin)."""
    if "decoupled_weight_decay" in group:
        return bool(group["decoupled_weight_decay"])
    return type(optimizer).__name__ in ("AdamW", "Adafactor", "Muon", "NAdamW")


class _Attached:
    """Something that acts at every step of one optimizer, with a schedule and a step counter."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.schedule = schedule
        self.step = 0
        self.epoch = -1
        self._optimizer = weakref.ref(optimizer)
        after = optimizer.register_step_post_hook(self._after)
        # Last in, first out: what one of several swaps or sets has to be put back in reverse order.
        optimizer._optimizer_step_post_hooks.move_to_end(after.id, last=False)  # type: ignore[attr-defined]
        self._hooks = (optimizer.register_step_pre_hook(self._before), after)
        _ATTACHED.setdefault(optimizer, []).append(self)

    def now(self) -> float:
        """The strength (or factor) that acts at the next step."""
        if self.schedule.needs_epochs and self.epoch < 0:
            raise InputError(
                f"the schedule {self.schedule.text} counts epochs, and nothing says which epoch it is: give it "
                f"in steps (such as delayed:2000steps), or pass steps_per_epoch= to gradscope.record, or call "
                f"Recording.epoch(0) before the first step"
            )
        if self.schedule.needs_record and not self.watched:
            raise InputError(f"the schedule {self.schedule.text} needs gradscope.record on this optimizer")
        return self.schedule.at(self.step, self.epoch)

    #: Set by a recording that will tell the schedule when the active phase is reached.
    watched = False
    #: Set while the environment replaces this penalty by another.
    suspended = False

    def detach(self) -> None:
        """Remove the hooks; the optimizer is as it was."""
        for hook in self._hooks:
            hook.remove()
        optimizer = self._optimizer()
        if optimizer is not None and self in _ATTACHED.get(optimizer, ()):
            _ATTACHED[optimizer].remove(self)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        raise NotImplementedError

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        raise NotImplementedError


class ScheduledDecay(_Attached):
    """The optimizer's own ``weight_decay``, multiplied over time by a schedule of strength 1."""

    _own: list[float] | None = None

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._own is not None:  # the last step raised before its end
            self._put_back(optimizer)
        factor = self.now()
        self._own = [group.get("weight_decay", 0.0) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            if "weight_decay" in group:
                group["weight_decay"] = group["weight_decay"] * factor

    def _put_back(self, optimizer: Optimizer) -> None:
        for group, own in zip(optimizer.param_groups, self._own or (), strict=False):
            if "weight_decay" in group:
                group["weight_decay"] = own
        self._own = None

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back(optimizer)
        self.step += 1


class Regularization(_Attached):
    """A penalty with its schedule on some parameters of one optimizer; see `regularize`.

    ``replaces_decay``: the optimizer's own ``weight_decay`` is kept from these parameters (the others
    go on getting it). ``decoupled``: L2 shrinks the weights by lr·2λ instead of going through the gradient.
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
    ) -> None:
        self.penalty = penalty
        self.parameters = {id(p) for p in parameters}
        self.replaces_decay = replaces_decay
        self.decoupled = decoupled
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._own: list[float] = []
        super().__init__(optimizer, schedule)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if kwargs.get("closure") is not None or any(a is not None for a in args[1:]):  # args[0]: the optimizer
            raise InputError("regularize does not work with optimizer.step(closure); call step() without one")
        self._put_back(optimizer)  # if the last step raised before its end
        self._strength = strength = 0.0 if self.suspended else self.now()
        self._own = [group.get("weight_decay", 0.0) for group in optimizer.param_groups]
        with torch.no_grad():
            for group, own in zip(optimizer.param_groups, self._own, strict=True):
                with_grad = [p for p in group["params"] if p.grad is not None]
                mine = [p for p in with_grad if id(p) in self.parameters]
                if self.replaces_decay and "weight_decay" in group:
                    group["weight_decay"] = 0.0
                    others = [p for p in with_grad if id(p) not in self.parameters]
                    self._pull(group, others, L2(), own / 2, is_decoupled(optimizer, group))
                if not self.penalty.proximal_step:
                    self._pull(group, mine, self.penalty, strength, self.decoupled)

    def _pull(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        penalty: Penalty,
        strength: float,
        decoupled: bool,
    ) -> None:
        if not parameters or strength == 0:
            return
        if decoupled:
            torch._foreach_mul_(parameters, 1 - float(group["lr"]) * 2 * strength)
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        sign = -1 if group.get("maximize") else 1
        # L2 as 2λ·w in one fused add: the same operation as the optimizer's own weight_decay.
        if isinstance(penalty, L2):
            total = torch._foreach_add(grads, parameters, alpha=sign * 2 * strength)
        else:
            pulls = [penalty.gradient(p) for p in parameters]
            total = torch._foreach_add(grads, pulls, alpha=sign * strength)
        for p, grad, new in zip(parameters, grads, total, strict=True):
            self._kept.append((p, grad))
            p.grad = new

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back(optimizer)
        if self.penalty.proximal_step and self._strength:
            with torch.no_grad():
                for group in optimizer.param_groups:
                    threshold = float(group["lr"]) * self._strength
                    for p in group["params"]:
                        if id(p) in self.parameters and p.grad is not None:
                            p.copy_(self.penalty.proximal(p, threshold))
        self.step += 1

    def _put_back(self, optimizer: Optimizer) -> None:
        """The gradients and settings of before the step."""
        for p, grad in self._kept:
            p.grad = grad
        if self.replaces_decay:
            for group, own in zip(optimizer.param_groups, self._own, strict=False):
                if "weight_decay" in group:
                    group["weight_decay"] = own
        self._kept, self._own = [], []


def regularize(
    optimizer: Optimizer, penalty: Penalty, schedule: Schedule, select: Select | None = None
) -> Regularization:
    """Apply λ_t·∂Ω/∂w, or the proximal step, at every ``optimizer.step()``; ``.grad`` stays ∂L/∂w.

    ``select``: a predicate on a parameter, or the parameters themselves; without it, every parameter
    with more than one dimension. Returns the handle, whose ``detach()`` takes the penalty off again.
    Raises `InputError` if nothing is selected.

    >>> regularize(optimizer, L2(), Delayed(0.006, epochs=5))  # doctest: +SKIP
    """
    if not isinstance(penalty, Penalty):
        raise InputError(f"penalty is {penalty!r}; expected a penalty such as gradscope.L2()")
    if not isinstance(schedule, Schedule):
        raise InputError(f"schedule is {schedule!r}; expected one such as gradscope.Constant(0.01)")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if select is None:
        chosen = [p for p in parameters if p.ndim > 1]
    elif callable(select):
        chosen = [p for p in parameters if select(p)]
    else:
        wanted = {id(p) for p in select}
        chosen = [p for p in parameters if id(p) in wanted]
    if not chosen:
        raise InputError(f"select chooses none of the optimizer's {len(parameters)} parameters; expected at least one")
    return Regularization(optimizer, penalty, schedule, chosen)
