"""Record histograms of the magnitudes of weights and gradients, in rows that the cadence ``histograms`` chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gradscope.recorder.fields import Field
from gradscope.recorder.host_rows import Block, FetchedRows, HostRow
from gradscope.recorder.kernels.magnitude_bins import COLUMNS, histogram
from gradscope.recorder.listener import Listener
from gradscope.recorder.listeners.grad_scaling import GradScaling
from gradscope.recorder.meter import Meter, local
from gradscope.recorder.ring import FIXED
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline

WEIGHTS, GRADIENTS = "weight_bins", "gradient_bins"


class Histograms(Listener):
    """Listener of histograms.

    Args:
        parameters: how many are recorded.
        timeline: steps and rows.
        buffer: the rows.
        scaling: factors of a GradScaler.
    """

    def __init__(self, parameters: int, timeline: Timeline, buffer: RowBuffer, scaling: GradScaling) -> None:
        self._parameters, self._timeline, self._buffer, self._scaling = parameters, timeline, buffer, scaling
        self._meters: Sequence[Meter] = ()

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Keep the meters."""
        self._meters = meters

    def meter_fields(self, meter: Meter) -> dict[str, Field]:
        """Return the bins of each parameter's weights and gradients."""
        bins = Field((len(meter.weights), COLUMNS), "sum", meter.weights, axis=0)
        return {f"{WEIGHTS}{meter.number}": bins, f"{GRADIENTS}{meter.number}": bins}

    def measured(self, meter: Meter, gradients: Sequence[Tensor | None], number: int) -> None:
        """Count the magnitudes, where the cadence samples the row."""
        if number != FIXED and not self._timeline.cadences["histograms"].at(self._timeline.step_of(number)):
            return
        ring, scale = self._buffer.rings[meter.device], self._scaling.scale
        plain = gradients if scale is None else [None if g is None else g / scale for g in gradients]
        histogram([local(w.detach()) for w in meter.weights], ring.view(f"{WEIGHTS}{meter.number}", number))
        histogram(plain, ring.view(f"{GRADIENTS}{meter.number}", number))

    def row_begins(self, row: HostRow) -> None:
        """Note whether the row is sampled."""
        row.histograms = row.number == FIXED or self._timeline.samples("histograms")

    def row_repeated(self, row: HostRow) -> None:
        """Note whether a replayed row is sampled."""
        row.histograms = row.histograms and self._timeline.samples("histograms")

    def variables(self, rows: FetchedRows) -> Block:
        """Compute the histograms, [N, P, bins]; NaN in rows that were not sampled."""
        found: Block = {}
        for name, field in (("weight_histogram", WEIGHTS), ("loss_gradient_histogram", GRADIENTS)):
            whole = np.full((len(rows.hosts), self._parameters, COLUMNS), np.nan, dtype=np.float32)
            for meter in self._meters:
                here = np.flatnonzero([row.histograms and meter.number in row.taken for row in rows.hosts])
                counts = rows.tables[meter.device][f"{field}{meter.number}"]
                whole[here[:, None], np.array(meter.columns)] = counts[here]
            found[name] = whole
        return found
