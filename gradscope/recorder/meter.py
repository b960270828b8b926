"""Measure the gradients and weights that one optimizer moves, where the backward pass leaves them.

Between ``backward()`` and ``step()`` a loop may clip, unscale, or change gradients in any other way. So they are
measured at the end of each backward pass (after accumulation, and after DDP or FSDP have reduced them), in the row of
the step to come; the last pass before the step stands. At the step itself the tensors' version counters tell whether
anything was changed in between, and only then is their norm taken again: from the two follows the clip coefficient,
whoever clipped. What is written past the counters (``.grad.data``, numpy) shows in norms alone: these are taken again
at the first steps and at every `RECHECK`-th, and at all of them once that was seen.

The end of a pass is detected by two sentinel parameters, the first and the last. A pass that reaches some gradients and
neither of them is noticed at the step (some versions have moved, no sentinel's has): these are measured there and then,
and one of them becomes a sentinel too. So it is with the inner passes of reentrant checkpoints, which end before the
outer one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradscope.recorder.fields import Field
from gradscope.recorder.kernels.kinds import entries, is_familiar
from gradscope.recorder.kernels.statistics import OF_SHARDS
from gradscope.recorder.kernels.table import TablePlan
from gradscope.recorder.ring import Ring
from gradscope.torch_utils.module_hooks import EagerHook

#: Parameters that are tried as sentinels before a loop counts as one whose passes cannot be detected.
TRIES = 8

#: The first recorded steps, and then every so many, at which norms are taken again though no version says so.
RECHECK = 16


@dataclass(frozen=True)
class Taken:
    """How an optimizer's share of a row was measured.

    Attributes:
        early: at the end of the backward pass, otherwise at the step.
        modified: the gradients were changed between the two.
        scaled: as measured, they carry the factor of a GradScaler.
        still_scaled: they carry it even at the step (fused optimizers divide by it themselves).
        overflow: whether the step is skipped stands on the device.
        looked: no version says that they changed, and the norms were taken again all the same.
    """

    early: bool
    modified: bool = False
    scaled: bool = False
    still_scaled: bool = False
    overflow: bool = False
    looked: bool = False


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor; any other tensor as it is."""
    shard: Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


class Meter:
    """Meter of ``weights`` ([P] tensors of one optimizer on one device), into a ring's rows.

    Args:
        number: of the meter.
        optimizer: whose weights they are.
        columns: their places among all recorded parameters.
        weights: the parameters.
        quantities: the rows of the table.
        heard: called when a sentinel's gradient has been accumulated.

    Attributes:
        inside_loss: what a declared penalty adds to each gradient, to be taken off.
        fired: a sentinel's gradient has been accumulated.
        by_hand: ranks reduce what the backward pass leaves, so that only the step shows it.
        late: steps at which only ``step()`` showed the gradients.
    """

    def __init__(
        self,
        number: int,
        optimizer: Optimizer,
        columns: Sequence[int],
        weights: Sequence[Tensor],
        quantities: Sequence[str],
        heard: Callable[[], None],
    ) -> None:
        self.number, self.optimizer = number, optimizer
        self.columns = list(columns)
        self.weights = list(weights)
        self.device = self.weights[0].device
        self.table, self.after = f"table{number}", f"after{number}"
        self.scale, self.overflow = f"scale{number}", f"overflow{number}"
        self.ring: Ring | None = None
        self.fired = False
        self.by_hand = False  # ranks reduce what the backward pass leaves: only the step shows it
        self.past_counters: int | None = None  # the first row in which gradients were seen to change uncounted
        self._taken = 0
        self.gone: dict[int, int] = {}  # weights that are no more among the optimizer's, and the step that showed it
        self.late = 0  # steps at which only ``step()`` showed the gradients
        self.inside_loss: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
        #: Told of gradients that are being measured into a row.
        self.measured: Sequence[Callable[[Meter, Sequence[Tensor | None], int], None]] = ()
        self.sharded = any(hasattr(w, "_local_tensor") for w in self.weights)
        here = [local(w.detach()) for w in self.weights]
        self.plan = TablePlan(here, quantities)
        self._norms = TablePlan(here, ("gradient_norm",))
        self._sums = [i for i, name in enumerate(quantities) if name.endswith(("_l1", "_nonzero"))]
        self._heard = heard
        self._row: int | None = None
        self._seen: list[int] = []
        self._sentinels: dict[int, Any] = {}
        trainable = [w for w in self.weights if w.requires_grad]
        moving = [i for i, w in enumerate(self.weights) if w.requires_grad]
        self._ends = {*moving[:1], *moving[-1:]}
        for parameter in {id(w): w for w in (*trainable[:1], *trainable[-1:])}.values():
            self._watch(parameter)

    def fields(self) -> dict[str, Field]:
        """Return what the ring keeps for it."""
        p = len(self.weights)
        of_shards = tuple(OF_SHARDS[name] for name in self.plan.quantities)
        return {
            self.table: Field((len(of_shards), p), of_shards, self.weights),
            self.after: Field((1, p), "norm", self.weights),
            self.scale: Field((1,), "mean"),  # the same everywhere
            self.overflow: Field((1,), "mean"),
        }

    # -- hearing of backward passes ---------------------------------------------------------------

    def _watch(self, parameter: Tensor | None) -> None:
        if parameter is not None and len(self._sentinels) < TRIES:
            handle = parameter.register_post_accumulate_grad_hook(EagerHook(self._accumulated))
            self._sentinels[id(parameter)] = handle

    def _accumulated(self, parameter: Tensor) -> None:
        self.fired = True
        self._heard()

    def _watch_another(self, among: Sequence[Tensor]) -> None:
        self._watch(next((w for w in among if id(w) not in self._sentinels and w.requires_grad), None))

    def _marks(self, gradients: Sequence[Tensor | None]) -> list[int]:
        """Return what tells whether a gradient was changed: which tensor it is, and how often that was written to.

        Of DTensors there are none, for writing through one does not count as writing to its shard.

        Returns:
            One number a gradient.
        """
        if self.sharded:
            return []
        try:
            return [id(g) if g is None else id(g) + (g._version << 48) for g in gradients]
        except RuntimeError:  # made under inference_mode, where nobody counts
            return [id(g) for g in gradients]

    # -- measuring --------------------------------------------------------------------------------

    def _gradients(self) -> list[Tensor | None]:
        if self.sharded:
            return [None if w.grad is None else local(w.grad) for w in self.weights]
        return [w.grad for w in self.weights]

    def after_backward(self, row: int) -> None:
        """Measure for this row after a pass has ended, unless a hook inside the pass has stepped already."""
        self.fired = False
        if self.by_hand:
            return
        gradients = self._gradients()
        for gradient in gradients:  # a generator would cost more than most of what follows
            if gradient is not None:
                break
        else:
            return
        if torch.is_grad_enabled():
            with torch.no_grad():
                self._measure(row, gradients)
        else:  # as in every pass but those of higher order
            self._measure(row, gradients)

    def after_replay(self, row: int) -> None:
        """Note that a graph has repeated a captured pass, whose measurement has been copied into this row."""
        self._row, self._seen = row, self._marks(self._gradients())

    def _measure(self, row: int, gradients: list[Tensor | None]) -> None:
        assert self.ring is not None
        self._row, self._seen = row, self._marks(gradients)
        if self.inside_loss is not None:
            extra = self.inside_loss(self.weights)
            gradients = [None if g is None else _difference(g, local(e)) for g, e in zip(gradients, extra, strict=True)]
        weights = [local(w) for w in self.weights] if self.sharded else self.weights
        table = self.ring.view(self.table, row)
        self.plan(weights, gradients, table)
        for column in self.plan.resized:  # a mean over as many entries as there were is none
            table[self._sums, column] = float("nan")
        for measured in self.measured:
            measured(self, gradients, row)

    def take(self, row: int, scale: Tensor | None) -> Taken:
        """Settle this optimizer's share of the row at its step. ``scale``: the GradScaler's, if one steps it."""
        assert self.ring is not None
        gradients = self._gradients()
        early, modified = self._settle(row, gradients)
        if not early:
            self.late += 1
            self._measure(row, gradients)
        looked = early and not modified and self._looks()
        if modified or looked:
            weights = [local(w) for w in self.weights] if self.sharded else self.weights
            self._norms(weights, gradients, self.ring.view(self.after, row))
        for column in self.gone:  # what lies in its ``.grad`` is of some earlier step
            self.ring.view(self.table, row)[:, column] = float("nan")
        # Set by GradScaler on a fused optimizer only: what it has to divide by, and whether to skip.
        told = self.optimizer.__dict__
        still, overflow = told.get("grad_scale"), told.get("found_inf")
        factor = scale if early else still
        if factor is not None:
            self.ring.view(self.scale, row).copy_(factor.reshape(1))
        if overflow is not None:
            self.ring.view(self.overflow, row).copy_(overflow.reshape(1))
        return Taken(early, modified, factor is not None, still is not None, overflow is not None, looked)

    def _looks(self) -> bool:
        self._taken += 1
        if self.inside_loss is not None:  # what was measured is not what lies there
            return False
        return self.past_counters is not None or self._taken <= RECHECK or self._taken % RECHECK == 0

    def _settle(self, row: int, gradients: list[Tensor | None]) -> tuple[bool, bool]:
        """Return whether the measurement after the backward pass stands, and whether gradients were changed since."""
        if self.by_hand:
            return False, False
        if self._row != row:
            self._watch_another([w for w, g in zip(self.weights, gradients, strict=True) if g is not None])
            return False, False
        if self.sharded:  # foreach operations on DTensors leave no mark, so the norm is taken at every step
            return True, True
        now = self._marks(gradients)
        if self._seen == now:
            return True, False
        moved = [i for i, (a, b) in enumerate(zip(self._seen, now, strict=True)) if a != b]
        more = any(self._seen[i] == id(None) for i in moved)  # a gradient that was not there yet: another pass
        if not more and (len(moved) == len(now) or any(id(self.weights[i]) in self._sentinels for i in moved)):
            return True, True
        self._watch_another([self.weights[i] for i in moved])
        return False, False

    def cleared(self) -> bool | None:
        """Return whether the gradients of earlier passes have been thrown away.

        Some loops write zeros into them, which the version counters show as a change like any other.

        Returns:
            None where only a device that is busy could tell.
        """
        ends = [self.weights[i].grad for i in self._ends]
        if all(g is None for g in ends):
            return True
        if self._row is None or self._seen == self._marks(self._gradients()):
            return False
        return not any(g is not None and bool(g.any()) for g in ends) if self.device.type == "cpu" else None

    def stepped(self) -> None:
        """Discard what was measured before: the optimizer has stepped."""
        self._row = None

    def unread(self) -> dict[int, str]:
        """Return what of a parameter is not known, and why, by place among all parameters."""
        found = dict.fromkeys(self.plan.resized, "its number of entries changed: no means") | self.plan.unread
        found |= {i: f"no more among the optimizer's parameters at step {step}" for i, step in self.gone.items()}
        return {self.columns[i]: why for i, why in found.items()}

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._sentinels.values():
            handle.remove()
        self._sentinels = {}


def _difference(gradient: Tensor, extra: Tensor) -> Tensor:
    """Subtract tensors of any layout, as a dense tensor."""
    return (gradient if is_familiar(gradient) else entries(gradient)) - extra
