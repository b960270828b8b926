"""Penalty term of the user's own inside the loss: the KL weight of a VAE, a sparsity or a smoothness term.

The loop calls the term with its value and adds what it returns: λ_t times the value, λ_t by the term's schedule. At a
step that is recorded the value is differentiated by itself, with `torch.autograd.grad` and the graph retained for the
loss, which costs about one backward more. Its share of each gradient is noted when the backward pass of the loss
arrives, with the factor that it arrives with: so accumulation, means over micro-batches and a GradScaler are right, and
a loss that is thrown away does not count.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradscope.quantities import Strength
from gradscope.regularizers.gathered import Gathered
from gradscope.regularizers.hooks import Attached
from gradscope.regularizers.schedule import Constant, Schedule
from gradscope.torch_utils import ranks
from gradscope.torch_utils.closures import closure_of
from gradscope.types import InputError

PREFIX = "term:"
#: Steps without a call of the term after which a warning says so.
SILENT_STEPS = 16


class Term:
    """Term of the loss whose strength follows a schedule, and whose gradient a recording tells from the data's.

    Give it to `gradscope.record` as ``penalty``, and add to the loss what it returns when called with its value.

    Args:
        name: what the record calls it: ``Term("kl")`` is the penalty ``term:kl``.
        schedule: its strength over time, a number meaning `Constant`.

    Examples:
        >>> kl = Term("kl", Delayed(0.5, "auto"))
        >>> with record(model, optimizer, "run.h5", penalty=kl) as run:
        ...     y = model(data)
        ...     loss = y.mean() + kl(y.square().mean())
        ...     loss.backward()
        ...     optimizer.step()
    """

    def __init__(self, name: str, schedule: Schedule | float = 1.0) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(f"name is {name!r}; expected a word of letters, digits and _, such as 'kl'")
        if isinstance(schedule, int | float):
            schedule = Constant(float(schedule))
        if not isinstance(schedule, Schedule) or schedule.stands == "alone" or schedule.needs_norm is not None:
            raise InputError(f"schedule is {schedule!r}; for a term, expected one such as gradscope.Constant(0.5)")
        self.name = PREFIX + name
        self.schedule = schedule
        self._fresh = schedule.state_dict()
        self._handle: TermPenalty | None = None

    def __call__(self, value: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return λ_t times the value, to be added to the loss.

        Args:
            value: a tensor with one entry, or a function that returns one.

        Returns:
            A scalar with a gradient.

        Raises:
            InputError: the value is no tensor with one entry, or no recording has the term yet.
        """
        if self._handle is None:
            raise InputError(
                f"the term {self.name.removeprefix(PREFIX)!r} has no schedule to follow yet: give it to "
                f"gradscope.record(…, penalty=term) before the first forward pass"
            )
        value = value() if callable(value) and not isinstance(value, Tensor) else value
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise InputError(f"the value of {self.name} is {shape}; expected a tensor with one entry, such as a mean")
        return self._handle.added(value)

    @property
    def strength(self) -> float:
        """λ_t at the coming step."""
        return self.schedule.strength if self._handle is None else self._handle.now()

    def state_dict(self) -> dict[str, Any]:
        """Return where its schedule is, for a checkpoint."""
        return {} if self._handle is None else self._handle.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, once it is recorded.

        Args:
            state: what `state_dict` returned.

        Raises:
            InputError: no recording has the term yet.
        """
        if self._handle is None:
            raise InputError(f"{self.name} has no state yet: give it to gradscope.record first, then load its state")
        self._handle.load_state_dict(state)

    def attach(self, optimizers: Sequence[Optimizer], parameters: Sequence[Tensor], goes_on: bool) -> TermPenalty:
        """Follow the steps of the first of these optimizers, from the start or where it was; called by a recording."""
        if ranks.distributed():
            raise InputError(f"{self.name} is told apart in one process only; under DDP put it into the data loss")
        if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
            raise InputError(f"{self.name} does not work with LBFGS, whose line search evaluates the loss again")
        before, self._handle = self._handle, TermPenalty(optimizers[0], self.name, self.schedule, parameters)
        if goes_on and before is not None:
            self._handle.load_state_dict(before.state_dict())
        elif not goes_on:
            self.schedule.load_state_dict(self._fresh)
        return self._handle

    def __repr__(self) -> str:
        return f"<{self.name} of {Strength(self.schedule.strength, self.name)}, {self.schedule.text}>"


class TermPenalty(Attached):
    """`Term` on an optimizer, made by a recording.

    Attributes:
        wanted: function that tells whether the coming step is recorded.
        amp: function that returns the factor of a GradScaler, None without one.
    """

    def __init__(self, optimizer: Optimizer, name: str, schedule: Schedule, parameters: Sequence[Tensor]) -> None:
        super().__init__(optimizer, schedule, parameters)
        self.name = name
        self.wanted: Callable[[], bool] = lambda: True
        self.amp: Callable[[], Tensor | None] = lambda: None
        self.acting = 0.0  # λ of the coming step's forward passes
        self.trouble: str | None = None  # why the gradient cannot be told
        self._called = False
        self._gathered = Gathered()

    # -- in the forward and the backward pass -------------------------------------------------------

    def added(self, value: Tensor) -> Tensor:
        """Return λ_t·value, and note its gradient if the coming step is recorded."""
        strength = self.now()
        self._called = True
        if not (torch.is_grad_enabled() and value.requires_grad):
            return strength * value
        self.acting = strength
        if strength == 0:
            return torch.zeros_like(value)  # and not 0·∞
        out = strength * value
        live = [p for p in self._chosen if p.requires_grad]
        if self.wanted() and live and (gradients := self._differentiated(value, live)) is not None:
            noted = value.detach().float().reshape(())
            out.register_hook(lambda factor: self._arrived(factor.detach(), live, gradients, noted))
        return out

    def _differentiated(self, value: Tensor, live: Sequence[Tensor]) -> Sequence[Tensor | None] | None:
        """Compute ∂Ω/∂w; None where the graph allows no second backward pass, and the training has to go on."""
        if self.trouble is not None:
            return None
        try:
            return torch.autograd.grad(value, live, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            self.trouble = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            text = f"the gradient of {self.name} cannot be told from the data's, both are NaN in the record"
            warnings.warn(f"{text} ({self.trouble})", stacklevel=4)
            return None

    @torch.no_grad()
    def _arrived(
        self, factor: Tensor, live: Sequence[Tensor], gradients: Sequence[Tensor | None], value: Tensor
    ) -> None:
        """Note the term's share of the gradients, given the derivative of the loss by the term in its backward pass."""
        if (scale := self.amp()) is not None:
            factor = factor / scale.to(factor.device)
        self._gathered.add(live, [None if g is None else g * factor.to(g.device, g.dtype) for g in gradients], value)

    # -- what the recorder asks -----------------------------------------------------------------------

    def strength(self) -> float:
        """Return λ with which the coming step's loss was made; 0 where it holds no such term."""
        return self.acting

    def pulls(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return ∂Ω/∂w of the coming step as it stands in ``.grad``, without λ and the factor of a GradScaler.

        Returns:
            One gradient a parameter; NaN where it cannot be told.
        """
        if self.trouble is not None and self.acting:
            return [torch.full_like(p, math.nan) for p in parameters]
        sums = self._gathered.sums
        return [sums[id(p)] if id(p) in sums else torch.zeros_like(p) for p in parameters]

    def inside(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Compute what the term adds to each gradient."""
        return [self.acting * pull for pull in self.pulls(parameters)]

    def value(self, like: Tensor) -> Tensor:
        """Compute what the term adds to a logged loss: its mean over the passes of the coming step."""
        if self.trouble is not None and self.acting:
            return torch.full((), math.nan, device=like.device)
        return torch.zeros((), device=like.device) + self.acting * self._gathered.value / self._gathered.divisor

    def like(self) -> Tensor:
        """Return a tensor on the device of the weights."""
        return self._chosen[0]

    # -- at the step ----------------------------------------------------------------------------------

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if closure_of(args, kwargs) is not None:
            raise InputError(f"{self.name} does not work with step(closure), which makes its gradients after the step")
        return super()._before(optimizer, args, kwargs)

    def _forget(self) -> None:
        self._gathered.clear()

    def _finish(self, optimizer: Optimizer) -> None:
        self._forget()
        self.acting = 0.0
        if not self._called and self._step == SILENT_STEPS:
            text = f"no loss of the first {SILENT_STEPS} steps holds {self.name}: add what it returns when it is called"
            warnings.warn(f"{text} with its value, loss = data + term(value)", stacklevel=4)
