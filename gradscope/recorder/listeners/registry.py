"""Registry of the listeners of a recording, in the order in which they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.parameter_groups import Groups
from gradscope.recorder.backward_passes import BackwardPasses
from gradscope.recorder.listener import Events, Listener, Steps, heard
from gradscope.recorder.listeners.activations import Activations
from gradscope.recorder.listeners.cuda_graphs import CudaGraphs
from gradscope.recorder.listeners.forwards import Forwards
from gradscope.recorder.listeners.grad_scaling import GradScaling
from gradscope.recorder.listeners.gradients import Gradients
from gradscope.recorder.listeners.histograms import Histograms
from gradscope.recorder.listeners.kept_gradients import KeptGradients
from gradscope.recorder.listeners.learning_rates import LearningRates
from gradscope.recorder.listeners.logged import Logged
from gradscope.recorder.listeners.missed_steps import MissedSteps
from gradscope.recorder.listeners.penalty_gradients import PenaltyGradients
from gradscope.recorder.listeners.scaled_weights import ScaledWeights
from gradscope.recorder.listeners.unread import Unread
from gradscope.recorder.listeners.updates import Updates
from gradscope.recorder.penalty_probe import PenaltyProbe
from gradscope.recorder.presets import Preset
from gradscope.recorder.row_buffer import Layout, RowBuffer
from gradscope.recorder.timeline import Timeline


class Listeners:
    """Listeners of one preset, with a layout and bound events. Arguments: see `Recorder`.

    What penalties do follows from the gradients and from the logged loss, so that `PenaltyGradients` comes after these.

    Attributes:
        each: all of them.
    """

    def __init__(
        self,
        steps: Steps,
        timeline: Timeline,
        buffer: RowBuffer,
        passes: BackwardPasses,
        *,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        groups: Groups,
        preset: Preset,
        activations: Activations | None,
        forwards: Forwards,
        warn: Callable[[str], None],
        steps_missed: Callable[[str], None],
    ) -> None:
        weights, self._timeline, self._preset = list(parameters.values()), timeline, preset
        self._home = next(w.device for w in weights if not w.is_meta)
        self.missed, self.kept = MissedSteps(timeline, buffer, steps_missed), KeptGradients()
        self.scaling = scaling = GradScaling({id(o) for o in optimizers}, buffer, steps)
        self.unread = Unread(list(parameters), weights, timeline, buffer, warn)
        self.scaled_weights = ScaledWeights(buffer, self.unread)
        self.gradients = Gradients(optimizers, weights, buffer.ranks, scaling, passes.heard)
        self.penalties = PenaltyGradients(weights, sum(groups.counts), buffer, scaling, self.unread)
        updates = Updates(self.gradients.numel, timeline, buffer, self.penalties) if preset.full else None
        histograms = Histograms(len(weights), timeline, buffer, scaling) if preset.full else None
        rates = LearningRates(groups, timeline, buffer, self.gradients, updates)
        if activations is not None:
            activations.follow(timeline, buffer, forwards, self.gradients.cleared)
        self.logged = Logged(forwards, timeline, buffer)
        self.graphs = CudaGraphs(timeline, buffer, steps, self.gradients, self.logged, updates, activations)
        self.each: list[Listener] = [self.missed, self.kept, self.scaled_weights, scaling, self.graphs]
        self.each += [self.gradients, *(one for one in (updates, histograms, activations) if one is not None)]
        self.each += [rates, self.logged, self.penalties, self.unread]

    def lay_out(self, probe: PenaltyProbe) -> tuple[Layout, Events]:
        """Prepare all for these penalties; return what a row holds from now on, and whom events reach."""
        quantities = self._preset.quantities
        if "weight_nonzero" not in quantities and probe.needs_zeros():
            quantities = (*quantities, "weight_nonzero")
        self.penalties.probe = probe
        self.gradients.plan(quantities)
        self._timeline.rivals = self.gradients.rivals()
        meters = self.gradients.meters
        for one in self.each:
            one.lay_out(meters)
        measured = heard(self.each, "measured")
        for meter in meters:
            meter.measured = measured
        common = {name: field for one in self.each for name, field in one.fields().items()}
        of_meter = {m.number: {n: f for one in self.each for n, f in one.meter_fields(m).items()} for m in meters}
        devices = {meter.number: meter.device for meter in meters}
        layout = Layout(self._home, common, devices, of_meter, heard(self.each, "variables"))
        return layout, Events(self.each, self.unread.guarded)

    def capture(self) -> dict[str, Any]:
        """Return for the record's ``capture`` who measured what, what was not seen, and why."""
        return {name: words for one in self.each for name, words in one.capture().items()}
