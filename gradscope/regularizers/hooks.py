"""Base of everything that acts at an optimizer's step: hooks, a schedule, a counter, a state.

During ``step()`` the optimizer may be shown other gradients than the loss's, in tensors of their own; afterwards
``.grad`` is the loss gradient again, bit for bit.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.parameter_groups import learning_rate
from gradscope.regularizers.schedule import Moment, Schedule
from gradscope.torch_utils import ranks
from gradscope.torch_utils.closures import closure_of, with_closure
from gradscope.torch_utils.eager import eager
from gradscope.torch_utils.one_step import OneStep
from gradscope.types import InputError

_ATTACHED: weakref.WeakKeyDictionary[Optimizer, list[Attached]] = weakref.WeakKeyDictionary()

#: Steps from one exchange between ranks to the next, while a schedule waits for the active phase.
AGREE_EVERY = 16


def attached_to(optimizer: Optimizer) -> list[Attached]:
    """List what is attached to this optimizer, oldest first."""
    return list(_ATTACHED.get(optimizer, ()))


class Attached:
    """Base of what acts at every step of one optimizer; `detach` takes it off again."""

    #: Its hooks stand behind a recording's, which sees the gradients as they were.
    acts_at_steps = True
    #: It is a penalty, which the environment may replace or multiply.
    penalises = True
    #: Set by a recording that will tell the schedule when the active phase is reached.
    watched = False
    #: Set while the environment replaces this penalty by another.
    suspended = False
    #: Put on by the environment, for the time of a recording: no part of the script's state.
    temporary = False
    #: The script's own schedule, while the environment multiplies it by another.
    own_schedule: Schedule | None = None

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        parameters: Sequence[Tensor],
        *,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.epoch = -1
        self.parameters = frozenset(id(p) for p in parameters)
        self._chosen = list(parameters)
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self._overflow: Tensor | None = None  # of a fused optimizer's last step, not yet read
        self._highest: dict[int, float] = {}
        self._norm: Tensor | float | None = None
        self._seen: dict[str, Tensor | float] = {}
        self._due = 0
        self._settled = -1
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._lists: list[list[Tensor]] = []
        self._sizes: list[int] = []
        self._optimizer = weakref.ref(optimizer)
        self._one_step = OneStep()
        after = optimizer.register_step_post_hook(self._ends)
        # Last in, first out: what one of several swaps or sets has to be put back in reverse order.
        optimizer._optimizer_step_post_hooks.move_to_end(after.id, last=False)  # type: ignore[attr-defined]
        self._hooks = (optimizer.register_step_pre_hook(self._begins), after)
        self._beside = _ATTACHED.setdefault(optimizer, [])
        self._beside.append(self)

    # -- what the owner of a handle uses --------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps done; those that a fused optimizer skipped on overflow do not count."""
        self._settle_overflow()
        return self._step

    def now(self, group: int = 0) -> float:
        """Return the strength (or factor) of a parameter group at the coming step."""
        if self.schedule.needs_epochs and self.epoch < 0 and self._steps_per_epoch is None:
            raise InputError(
                f"the schedule {self.schedule.text} counts epochs, and nothing says which epoch it is: give it "
                f"in steps (such as delayed:2000steps), or pass steps_per_epoch= to gradscope.record or regularize, or "
                f"call Recording.epoch(0) before the first step"
            )
        if self.schedule.needs_record and not self.watched:
            raise InputError(f"the schedule {self.schedule.text} needs gradscope.record on this optimizer")
        return self.schedule.strength_at(self._moment(group))

    def observe(self, *, loss: Tensor | float, error: Tensor | float | None = None) -> None:
        """Note training loss and error of the latest step, without synchronising, until a controller next looks."""
        self._seen = {"loss": loss if not isinstance(loss, Tensor) else loss.detach().clone()}
        if error is not None:
            self._seen["error"] = error if not isinstance(error, Tensor) else error.detach().clone()

    def settle(self) -> None:
        """Decide what the coming step will do; called before every step, on all ranks, by a recording too."""
        if self.step == self._settled:  # ranks exchange numbers below: once a step, however many ask
            return
        self._settled = self._step
        if self.schedule.measures_every:
            self._measure()
        if self.schedule.waiting and ranks.distributed():
            self._agree_on_the_active_phase()

    def state_dict(self) -> dict[str, Any]:
        """Return counter, schedule and what a controller has seen: with it a resumed run goes on bit for bit.

        What the environment asks of the schedule is left out: another attempt may be asked something else.

        Returns:
            Plain values and the schedule's own state.
        """
        schedule = self.own_schedule or self.schedule
        return {
            "schedule": schedule.text,
            "step": self.step,
            "epoch": self.epoch,
            "highest": dict(self._highest),
            "due": self._due,
            "seen": {name: float(value) for name, value in self._seen.items()},
            "state": schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, on a handle with the same schedule."""
        schedule = self.own_schedule or self.schedule
        if state.get("schedule") != schedule.text:
            raise InputError(f"the state is of schedule {state.get('schedule')!r}; this one is {schedule.text!r}")
        self._step, self.epoch, self._due = state["step"], state["epoch"], state["due"]
        self._highest, self._seen = dict(state["highest"]), dict(state["seen"])
        self._norm = self._overflow = None
        self._settled = -1
        schedule.load_state_dict(state["state"])

    def begin_at(self, step: int) -> None:
        """Count steps from here: a run that goes on after a checkpoint."""
        self._step, self._settled = step, -1

    def detach(self) -> None:
        """Remove the hooks, which leaves the optimizer as it was."""
        for hook in self._hooks:
            hook.remove()
        if self in self._beside:
            self._beside.remove(self)

    # -- what an implementation overrides -------------------------------------------------------------

    def _act(self, optimizer: Optimizer) -> None:
        """Act before the update, with the gradients of this step in place; once for each call of a closure."""

    def _finish(self, optimizer: Optimizer) -> None:
        """Act after the update, with ``.grad`` as it was."""

    def _forget(self) -> None:
        """Discard what the last call of a closure gathered: it is about to be called again."""

    def _put_back(self, stale: bool = False) -> None:
        """Restore ``.grad``. ``stale``: the last step raised, and what has changed since then is left alone."""
        for p, grad, shown in self._kept:
            if not stale or (p.grad is shown and shown._version == 0):
                p.grad = grad
        self._kept = []

    # -- the hooks ------------------------------------------------------------------------------------

    @eager
    def _begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        return self._before(optimizer, args, kwargs) if self._one_step.begins(optimizer) else None

    @eager
    def _ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._one_step.ends(optimizer):
            self._after(optimizer, args, kwargs)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._beside[0] is self:  # the first of this step: the last step may have raised before its end
            for handle in reversed(self._beside):
                handle._put_back(stale=True)
        self.settle()
        if (closure := closure_of(args, kwargs)) is None:
            self._act(optimizer)
            return None

        def acted() -> Any:
            """Call the closure and act on the gradients that it made; some optimizers call it often."""
            self._put_back()
            self._forget()
            loss = closure()
            self._act(optimizer)
            return self._objective(loss)

        return with_closure(args, kwargs, acted)

    def _objective(self, loss: Any) -> Any:
        """Return what the optimizer is told of the closure's loss."""
        return loss

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back()
        self._finish(optimizer)
        if self.schedule.needs_norm is not None:
            self._norm = self._norm_of_weights()
        if self.schedule.needs_rate:
            for index in range(len(optimizer.param_groups)):
                self._highest[index] = self._moment(index).highest_rate
        self._overflow = getattr(optimizer, "found_inf", None)
        self._step += 1

    # -- what they need -------------------------------------------------------------------------------

    def _moment(self, group: int) -> Moment:
        step = self.step
        epoch = self.epoch if self._steps_per_epoch is None else step // self._steps_per_epoch
        rate = highest = math.nan
        norms = {}
        if self.schedule.needs_rate and (optimizer := self._optimizer()) is not None:
            rate = learning_rate(optimizer.param_groups[group], f"the schedule {self.schedule.text}")
            highest = max(rate, self._highest.get(group, rate))
        if self.schedule.needs_norm is not None:
            if self._norm is None:
                self._norm = self._norm_of_weights()
            self._norm = float(self._norm)
            norms = {self.schedule.needs_norm: self._norm}
        return Moment(step, epoch, rate, highest, norms)

    def _norm_of_weights(self) -> Tensor:
        """Compute the norm of all penalised weights together.

        Measured after a step and read before the next, so that the device is never waited for while it has nothing else
        to do.

        Returns:
            A scalar on the device of the first parameter.
        """
        with torch.no_grad():
            order = 1 if self.schedule.needs_norm == "l1" else 2
            norms = torch._foreach_norm([p.detach() for p in self._chosen], order)
            together = torch.stack([n.to(norms[0].device) for n in norms]).float()
            return cast(Tensor, torch.linalg.vector_norm(together, order))

    def _settle_overflow(self) -> None:
        # Read before the next step, when the device has already got that step's forward and backward to do.
        if self._overflow is not None:
            self._step -= int(bool(self._overflow))
            self._overflow = None

    def _measure(self) -> None:
        """Let a controller look at step t (from 0) after its update, where t is a multiple of ``measures_every``."""
        every, last = self.schedule.measures_every, self._step - 1
        if last < self._due:
            return
        loss, error = (float(self._seen.get(name, math.nan)) for name in ("loss", "error"))
        told = ranks.mean_of_those_given([loss, error, 1.0 if self._seen else math.nan], self._chosen[0])
        if not math.isnan(told[2]):
            self.schedule.observe(last, told[0], None if math.isnan(told[1]) else told[1])
            self._seen = {}
            self._due = last - last % every + every
        elif self._due == 0 and last >= 2 * every:
            raise InputError(
                f"the schedule {self.schedule.text} follows the training loss and has been told none in {last + 1} "
                f"steps: call Recording.log(loss=loss), or observe(loss=loss) of what regularize returned"
            )

    def _agree_on_the_active_phase(self) -> None:
        """Begin the penalty on all ranks once one has seen its active phase: ranks see different losses."""
        if self._step % AGREE_EVERY:
            return
        seen = self._reached if self._reached is not None else math.nan
        (told,) = ranks.mean_of_those_given([seen], self._chosen[0])
        if not math.isnan(told):
            self.schedule.active_phase(self._step)

    #: The step at which this rank's recording has seen the active phase.
    _reached: int | None = None

    def active_phase(self) -> None:
        """Note that the recording has seen the run learn."""
        if ranks.distributed():
            self._reached = self.step
        else:
            self.schedule.active_phase(self.step)

    def _members(self, optimizer: Optimizer) -> list[list[Tensor]]:
        """List the chosen parameters of each group, found again when a group has grown or shrunk."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if sizes != self._sizes:
            self._sizes = sizes
            self._lists = [[p for p in group["params"] if id(p) in self.parameters] for group in optimizer.param_groups]
        return self._lists

    def _show(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], shown: Sequence[Tensor]) -> None:
        """Let the optimizer see other gradients for the time of its step."""
        self._kept.extend(zip(parameters, gradients, shown, strict=True))
        for p, new in zip(parameters, shown, strict=True):
            p.grad = new
