"""Penalties on what layers put out (Keras' ``activity_regularizer``), with ``.grad`` still the pure loss gradient.

After each training forward of the model the penalty on the outputs is differentiated by itself, with
``torch.autograd.grad`` and the graph retained for the loss. When the backward pass of the loss comes to these outputs,
its gradient joins those that wait beside ``.grad`` until the step: a forward that is not trained on does not count, nor
do gradients that the loop throws away. That costs about one backward more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from gradscope.optimizers.wrapped import the_one
from gradscope.quantities import Strength
from gradscope.regularizers.gathered import Gathered
from gradscope.regularizers.hooks import Attached
from gradscope.regularizers.penalties import Penalty
from gradscope.regularizers.schedule import Schedule, scheduled
from gradscope.torch_utils import ranks
from gradscope.torch_utils.module_hooks import takes_hooks
from gradscope.torch_utils.selection import SelectModules, selected_modules
from gradscope.types import InputError


class ActivityRegularization(Attached):
    """Penalty on the outputs of modules, as `regularize_activity` returns it."""

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        penalty: Penalty,
        schedule: Schedule,
        modules: Sequence[nn.Module],
        *,
        steps_per_epoch: int | None = None,
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        super().__init__(optimizer, schedule, parameters, steps_per_epoch=steps_per_epoch)
        self.penalty = penalty
        self.name = f"activity:{penalty.name}"
        self._values: list[Tensor] = []
        #: Of one forward, until a backward pass comes to it: parameters and gradients.
        self._waiting: list[tuple[list[Tensor], Sequence[Tensor | None]]] = []
        self._gathered = Gathered()
        self._reduced = False
        self._forward_hooks = [module.register_forward_hook(self._see) for module in modules]
        self._forward_hooks.append(model.register_forward_hook(self._differentiate))

    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InputError(
                f"{type(module).__name__} puts out a {type(output).__name__}; an activity penalty takes modules that "
                f"put out one tensor"
            )
        if module.training and output.requires_grad and torch.is_grad_enabled():
            own = output.to(torch.float32, copy=True)  # what comes next may write to the output in place
            value = self.penalty.value(own) / max(1, len(output))
            if torch._C._current_graph_task_id() != -1:
                return  # a checkpoint repeats what was seen, down to the tensors that are saved
            self._values.append(value)
            waiting = self._waiting
            output.register_hook(lambda gradient: self._arrived(waiting))

    def _differentiate(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._values or torch._C._current_graph_task_id() != -1:
            return
        total, self._values = torch.stack(self._values).sum(), []
        if live := [p for p in self._chosen if p.requires_grad]:
            self._waiting.append((live, torch.autograd.grad(total, live, retain_graph=True, allow_unused=True)))
        self._waiting = []

    def _arrived(self, waiting: list[tuple[list[Tensor], Sequence[Tensor | None]]]) -> None:
        """Count a forward whose loss has come to the first of its outputs."""
        if waiting:
            self._gathered.add(*waiting.pop())

    def pulls(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return ∂Ω/∂w of the coming step, averaged over its backward passes."""
        sums, count = self._gathered.sums, self._gathered.divisor
        return [sums[id(p)] / count if id(p) in sums else torch.zeros_like(p) for p in parameters]

    def _reduce(self) -> None:
        if ranks.distributed() and not self._reduced and self._gathered.sums:
            reduced = self.pulls(self._chosen)
            ranks.mean_(reduced)
            self._gathered.clear()
            self._gathered.add(self._chosen, reduced)  # one pass stands for all of them from here on
            self._reduced = True

    def settle(self) -> None:
        """Decide what the coming step does, and average the gradients over the ranks."""
        super().settle()
        self._reduce()

    def _forget(self) -> None:
        self._gathered.clear()
        self._reduced = False

    @torch.no_grad()
    def _act(self, optimizer: Optimizer) -> None:
        self._reduce()  # again, for a closure has made them only now
        grad_scale = getattr(optimizer, "grad_scale", None)
        for index, (group, members) in enumerate(zip(optimizer.param_groups, self._members(optimizer), strict=True)):
            mine = [p for p in members if p.grad is not None and id(p) in self._gathered.sums]
            strength = 0.0 if self.suspended else self.now(index)
            if not mine or strength == 0:
                continue
            pulls = torch._foreach_mul(self.pulls(mine), -strength if group.get("maximize") else strength)
            if grad_scale is not None:
                torch._foreach_mul_(pulls, grad_scale)
            gradients: list[Tensor] = [p.grad for p in mine]  # type: ignore[misc]
            self._show(mine, gradients, torch._foreach_add(gradients, pulls))

    def _finish(self, optimizer: Optimizer) -> None:
        self._forget()

    def detach(self) -> None:
        """Remove the hooks from the optimizer and from the modules."""
        super().detach()
        for hook in self._forward_hooks:
            hook.remove()

    def __repr__(self) -> str:
        return f"<{self.name} of {Strength(self.schedule.strength, self.name)}, {self.schedule.text}>"


def regularize_activity(
    optimizer: Optimizer,
    model: nn.Module,
    penalty: Penalty,
    schedule: Schedule | float,
    modules: SelectModules,
    *,
    steps_per_epoch: int | None = None,
) -> ActivityRegularization:
    """Penalise outputs: λ_t·Ω(outputs)/batch, summed over ``modules``, as Keras' ``activity_regularizer`` does.

    Several forwards before one step (accumulation) are averaged; so are the ranks of a distributed run.

    Args:
        optimizer: as for `regularize`, except LBFGS.
        model: the model, whose forward pass ends one measurement of the outputs.
        penalty: Ω, such as ``L1()``.
        schedule: its strength over time, or a number; none that bounds the norm of weights.
        modules: a regular expression on their names, a predicate ``(name, module) -> bool`` (one of a single argument
            is given the module), a type or several, or the modules themselves.
        steps_per_epoch: lets a schedule count epochs where no recording tells them.

    Returns:
        The handle, as `regularize` returns it.

    Raises:
        InputError: no module is chosen, one of them or the model takes no hooks, the optimizer is LBFGS, or the
            schedule bounds the norm of weights.

    Examples:
        >>> regularize_activity(optimizer, model, L1(), Constant(1e-5), modules=nn.ReLU)
        <activity:l1 of λ 1e-05, constant>
    """
    if not isinstance(penalty, Penalty):
        raise InputError(f"penalty is {penalty!r}; expected a penalty such as gradscope.L1()")
    schedule = scheduled(schedule)
    if schedule.stands == "alone" or schedule.needs_norm is not None:
        raise InputError(f"schedule is {schedule!r}; on outputs, expected one such as gradscope.Constant(0.01)")
    optimizer = the_one(optimizer)
    if isinstance(optimizer, LBFGS):
        raise InputError("an activity penalty does not work with LBFGS, whose line search would not see its value")
    found = selected_modules(model, modules)
    for module in (model, *found):
        if not takes_hooks(module):
            raise InputError(
                f"{type(module).__name__} is made by torch.jit, which takes no hooks; expected plain modules"
            )
    return ActivityRegularization(optimizer, model, penalty, schedule, found, steps_per_epoch=steps_per_epoch)
