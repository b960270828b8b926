"""Record what steps do to the weights: update sizes, the penalty's share of them, coherence of successive gradients."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, Floats, HostRow
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.penalty_gradients import PenaltyGradients
from gradscope.recorder.memory import no_grad
from gradscope.recorder.meter import Meter
from gradscope.recorder.ring import FIXED
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline
from gradscope.recorder.update_meter import SPLIT, UpdateMeter


class Updates(Listener):
    """Listener with one `UpdateMeter` beside each meter. Sampled by the cadence ``updates``.

    Attributes:
        of: the update meters, by number of the meter.
    """

    def __init__(self, numel: Floats, timeline: Timeline, buffer: RowBuffer, penalties: PenaltyGradients) -> None:
        self._numel, self._timeline, self._buffer, self._penalties = numel, timeline, buffer, penalties
        self._meters: list[Meter] = []
        self.of: dict[int, UpdateMeter] = {}
        self._last_norms: dict[int, Floats] = {}

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Create an update meter for each meter."""
        if self._meters != list(meters):
            self._meters = list(meters)
            self.of = {m.number: UpdateMeter(m.number, m.optimizer, m.weights) for m in meters}
        self._last_norms = {}

    def meter_fields(self, meter: Meter) -> dict[str, Field]:
        """Return the update meter's fields."""
        return self.of[meter.number].fields()

    def without(self, gone: Container[int]) -> None:
        """Forget parameters, by identity, that are no longer among the optimizers'."""
        for meter in self._meters:
            self.of[meter.number].forget([i for i, w in enumerate(meter.weights) if id(w) in gone])

    def measured(self, meter: Meter, gradients: Sequence[Tensor | None], number: int) -> None:
        """Compare the gradients with those of the row before."""
        self.of[meter.number].measured(gradients, self._buffer.rings[meter.device], number)

    def row_begins(self, row: HostRow) -> None:
        """Note whether the row is sampled."""
        row.updates = row.number == FIXED or self._timeline.samples("updates")

    def row_repeated(self, row: HostRow) -> None:
        """Note whether a replayed row is sampled."""
        row.updates = row.updates and self._timeline.samples("updates")

    def before_step(self, meter: Meter, number: int, row: HostRow | None, skipped: bool) -> None:
        """Keep the weights before the step, and what penalties are about to do."""
        pulls = self._penalties.probe.pulls
        if pulls is not None and not skipped:
            self.of[meter.number].before_step(number if row is not None and row.updates else None, pulls)

    def after_step(self, meter: Meter, number: int) -> None:
        """Measure the change of the weights."""
        with no_grad():
            self.of[meter.number].after_step(self._buffer.rings[meter.device])

    def capture(self) -> dict[str, Any]:
        """Return the optimizers whose updates cannot be split."""
        unknown = sorted({type(u.optimizer).__name__ for u in self.of.values() if not u.knows_split})
        if not unknown:
            return {}
        return {"update_proportion": f"not known for {', '.join(unknown)}; for {', '.join(SPLIT)} it is"}

    def variables(self, rows: FetchedRows) -> Block:
        """Compute update sizes, shares and coherence, [N, P] each."""
        hosts, n, p = rows.hosts, len(rows.hosts), len(self._numel)
        size, share, cosine = np.full((n, p), np.nan), np.full((n, p), np.nan), np.full((n, p), np.nan)
        for meter in self._meters:
            updates, mine = self.of[meter.number], rows.tables[meter.device]
            # A skipped step moved nothing; where its hooks never ran, nothing was written either.
            here = np.array([row.updates and meter.number in row.taken and not row.skipped for row in hosts])
            columns, places = np.array(meter.columns), np.flatnonzero(here)[:, None]
            numel = np.maximum(self._numel[columns], 1.0)
            size[places, columns] = (mine[updates.size][:, 0] / numel)[here]
            if updates.knows_split:
                loss, penalty = mine[updates.split][:, 0].astype(np.float64), mine[updates.split][:, 1]
                with np.errstate(divide="ignore", invalid="ignore"):
                    share[places, columns] = (loss / (loss + penalty))[here]
            norm_row = meter.plan.quantities.index("gradient_norm")
            for i in np.flatnonzero(here):
                norm = mine[meter.table][i, norm_row].astype(np.float64)  # scaled as ``along`` is
                last = self._last_norms.get(meter.number)
                raw = mine[updates.along][i, 0].astype(np.float64)
                if last is not None:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        cosine[i, columns] = raw / (norm * last)
                self._last_norms[meter.number] = norm
        names = ("update_mean_abs", "update_proportion", "gradient_coherence")
        return {name: values.astype(np.float32) for name, values in zip(names, (size, share, cosine), strict=True)}
