"""Record the sums over gradients and weights of every parameter: what the preset records of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradscope.recorder.distributed import Ranks
from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, Floats, HostRow
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.grad_scaling import GradScaling
from gradscope.recorder.meter import RECHECK, Meter

#: Two norms of the same numbers, taken by different kernels, agree to this share.
SAME = 1e-5
#: Rows whose clipping by value is kept.
CUTS = 64
#: Quantities of the parameter table that carry the factor of a GradScaler, if the gradients do.
SCALED = ("gradient_l1", "gradient_norm", "gradient_max", "dot")
#: How far the ratios of the parameters' norms after and before a change may lie apart and still be one factor.
ONE_FACTOR = 0.01

PAST_COUNTERS = (
    "gradients were changed between backward() and step() where torch does not count it (.grad.data, numpy): "
    f"clip_coefficient, which may miss it in up to {RECHECK - 1} rows before and in some right after, shows it "
    "since step"
)


class Gradients(Listener):
    """Listener with the meters: one for the parameters that one optimizer moves on one device.

    Args:
        optimizers: the recorded ones.
        weights: all recorded parameters, [P].
        ranks: processes of the training.
        scaling: factors of a GradScaler.
        passed: called where a sentinel of a meter has its gradient.

    Attributes:
        meters: in the order of the optimizers.
        of: the meters of each optimizer, by identity.
        quantities: the rows of the table.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        weights: Sequence[Tensor],
        ranks: Ranks,
        scaling: GradScaling,
        passed: Callable[[], None],
    ) -> None:
        self._optimizers, self._weights, self._ranks = optimizers, weights, ranks
        self._scaling, self._passed = scaling, passed
        self.numel = np.array([w.numel() for w in weights], dtype=np.float64)
        self.meters: list[Meter] = []
        self.of: dict[int, list[Meter]] = {}
        self.quantities: tuple[str, ...] = ()
        self._cuts: list[float] = []  # what clipping by value has left of the norm, in the first rows that had any
        self._looked_at = 0

    def plan(self, quantities: tuple[str, ...]) -> None:
        """Create the meters for these rows of the table; existing ones stay where they measure the same."""
        members = [(o, columns) for o in self._optimizers for columns in self._columns(o) if self._ranks.measures]
        if quantities != self.quantities or members != [(m.optimizer, m.columns) for m in self.meters]:
            self.quantities = quantities
            self.detach()
            self.meters = [
                Meter(n, o, columns, [self._weights[i] for i in columns], quantities, self._passed)
                for n, (o, columns) in enumerate(members)
            ]
        for meter in self.meters:
            meter.by_hand = self._ranks.by_hand
            meter.stepped()
        self.of = {id(o): [m for m in self.meters if m.optimizer is o] for o in self._optimizers}

    def _columns(self, optimizer: Optimizer) -> list[list[int]]:
        """Return the recorded parameters that this optimizer moves, by device."""
        where = {id(w): i for i, w in enumerate(self._weights)}
        members = sorted({where[id(p)] for g in optimizer.param_groups for p in g["params"] if id(p) in where})
        devices = dict.fromkeys(self._weights[i].device for i in members if not self._weights[i].is_meta)
        return [[i for i in members if self._weights[i].device == device] for device in devices]

    def rivals(self) -> dict[int, set[int]]:
        """Return by optimizer those that move some of the same weights, itself among them."""
        columns = {identity: {i for m in meters for i in m.columns} for identity, meters in self.of.items()}
        return {a: {b for b in columns if a == b or columns[a] & columns[b]} for a in columns}

    def detach(self) -> None:
        """Remove the meters' hooks."""
        for meter in self.meters:
            meter.detach()

    def meter_fields(self, meter: Meter) -> dict[str, Field]:
        """Return the meter's own fields."""
        return meter.fields()

    def measure(self, meter: Meter, number: int) -> None:
        """Measure the gradients that a pass has left."""
        meter.after_backward(number)

    def before_step(self, meter: Meter, number: int, row: HostRow | None, skipped: bool) -> None:
        """Settle the optimizer's share of a recorded row."""
        if row is not None:
            row.taken[meter.number] = meter.take(number, self._scaling.factors.get(id(meter.optimizer)))

    def step_skipped(self, optimizer: Optimizer) -> None:
        """Discard measurements of a step that was skipped."""
        for meter in self.of[id(optimizer)]:
            meter.stepped()

    def after_step(self, meter: Meter, number: int) -> None:
        """Discard measurements of a step that was taken."""
        meter.stepped()

    def without(self, gone: Container[int], step: int) -> None:
        """Note parameters, by identity, that are no longer among the optimizers' at this step."""
        for meter in self.meters:
            meter.gone = {i: meter.gone.get(i, step) for i, w in enumerate(meter.weights) if id(w) in gone}

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Start afresh with what clipping by value has left."""
        self._cuts, self._looked_at = [], 0

    @property
    def cut_by_value(self) -> float:
        """What is left of the norm, on average, where gradients are clipped by value in most rows; else NaN."""
        often = len(self._cuts) >= max(1.0, 0.5 * min(self._looked_at, CUTS))
        return float(np.exp(np.mean(np.log(self._cuts)))) if often else np.nan

    def cleared(self) -> list[bool | None]:
        """Return of each meter whether the gradients of the passes so far were thrown away; None: not known."""
        return [meter.cleared() for meter in self.meters]

    def capture(self) -> dict[str, Any]:
        """Return who reads the parameters, and what was measured late."""
        found: dict[str, Any] = {
            "statistics": [reason for meter in self.meters for reason in meter.plan.reasons],
            "measured_at_step": sum(meter.late for meter in self.meters),
        }
        past = [meter.past_counters for meter in self.meters if meter.past_counters is not None]
        if past:
            found["changed_past_counters"] = f"{PAST_COUNTERS} {min(past)}"
        return found

    # -- the variables ----------------------------------------------------------------------------

    def variables(self, rows: FetchedRows) -> Block:
        """Compute the variables of gradients and weights, the clip coefficient and skipped steps."""
        table, clip, overflow = self._parameters(rows)
        at = rows.sums = {name: table[:, i].astype(np.float64) for i, name in enumerate(self.quantities)}
        size = np.maximum(self.numel, 1.0)
        found: dict[str, NDArray[Any]] = {
            "loss_gradient_mean_abs": at["gradient_l1"] / size,
            "loss_gradient_norm": at["gradient_norm"],
            "weight_mean_abs": at["weight_l1"] / size,
            "weight_norm": at["weight_norm"],
        }
        if "gradient_max" in at:
            found["loss_gradient_max_abs"] = at["gradient_max"]
            found["weight_max_abs"] = at["weight_max"]
            found["weight_gradient_dot"] = at["dot"]
            found["weight_zero_fraction"] = np.where(self.numel > 0, 1 - at["weight_nonzero"] / size, 0.0)
        with np.errstate(invalid="ignore"):
            block = {name: values.astype(np.float32) for name, values in found.items()}
        if "gradient_nonfinite" in at:
            block["nonfinite_count"] = np.nan_to_num(at["gradient_nonfinite"]).astype(np.int32)
        block["skipped"] = (np.array([row.skipped for row in rows.hosts]) | overflow).astype(np.int8)
        block["clip_coefficient"] = clip.astype(np.float32)
        return block

    def _parameters(self, rows: FetchedRows) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return the table of all parameters [N, Q, P], clip coefficients [N], whether a fused step was skipped [N]."""
        hosts, n = rows.hosts, len(rows.hosts)
        scaled = [i for i, name in enumerate(self.quantities) if name in SCALED]
        norm = self.quantities.index("gradient_norm")
        table = np.full((n, len(self.quantities), len(self.numel)), np.nan)
        before, after = [], []
        known, overflow, moved = np.ones(n, dtype=bool), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        for meter in self.meters:
            taken = [row.taken.get(meter.number) for row in hosts]
            here = np.array([t is not None for t in taken])
            mine, columns = rows.tables[meter.device], np.array(meter.columns)
            part = mine[meter.table].astype(np.float64)
            scale = np.where([bool(t and t.scaled) for t in taken], mine[meter.scale][:, 0], 1.0).astype(np.float64)
            part[:, scaled] /= scale[:, None, None]
            table[np.flatnonzero(here)[:, None], :, columns] = part[here].transpose(0, 2, 1)
            known &= [t is None or t.early for t in taken]
            overflow |= np.where([bool(t and t.overflow) for t in taken], mine[meter.overflow][:, 0] > 0, False)
            norms = np.where(here[:, None], part[:, norm], 0.0)
            changed = np.array([bool(t and t.modified) for t in taken])
            still = np.where([bool(t and t.still_scaled) for t in taken], scale, 1.0)
            before.append(norms)
            looked = np.array([bool(t and t.looked) for t in taken])
            found = mine[meter.after][:, 0] / still[:, None]
            with np.errstate(invalid="ignore"):
                silent = looked & ~np.isclose(found, norms, rtol=SAME, atol=0, equal_nan=True).all(1)
            if silent.any() and meter.past_counters is None:
                meter.past_counters = hosts[int(np.flatnonzero(silent)[0])].step
            after.append(np.where((changed | silent)[:, None], found, norms))
            moved |= changed | silent
        clip = np.ones(n)
        if moved.any():
            norms, left = np.concatenate(before, 1)[moved], np.concatenate(after, 1)[moved]
            clip[moved] = factor_of_change(norms, left)
            whole = whole_change(norms, left)[np.isnan(clip[moved]) & known[moved]]
            self._cuts.extend(whole[(whole > 0) & (whole < 1)][: CUTS - len(self._cuts)].tolist())
        self._looked_at += n
        return table, np.where(known, clip, np.nan), overflow


def whole_change(before: Floats, after: Floats) -> Floats:
    """Compute ‖after‖/‖before‖ of the whole, [N], from norms [N, P]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(np.nansum(after**2, 1)) / np.sqrt(np.nansum(before**2, 1)))


def factor_of_change(before: Floats, after: Floats) -> Floats:
    """Compute ‖after‖/‖before‖ of the whole; NaN where the tensors changed by different factors.

    Clipping by norm multiplies every gradient by one number; clipping by value does not.

    Returns:
        One factor a row, [N].
    """
    whole = whole_change(before, after)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(before > 0, after / before, np.nan)
    known = np.isfinite(each)
    low = np.where(known, each, np.inf).min(1)
    high = np.where(known, each, -np.inf).max(1)
    return np.where(np.isfinite(whole) & known.any(1) & (high - low <= ONE_FACTOR * high), whole, np.nan)
