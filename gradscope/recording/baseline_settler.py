"""Settle the baseline of a running record with its first rows where it was not given, and refine it later."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.rules.checker import Checker
from gradscope.recorder.baseline.assumed import AssumedBaseline
from gradscope.recorder.listeners.registry import Listeners
from gradscope.recording.live_judge import Rows
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.run_info import history_of


class BaselineSettler:
    """Source of the baseline for judge, rules and record: the loss of the best constant predictor, as far as seen.

    With the first rows it tells them as well what else the script does that is hardly meant. A baseline that the
    capture has already (given, or told before a checkpoint) stays.

    Attributes:
        baseline: what can be seen of it.
    """

    def __init__(
        self,
        baseline: AssumedBaseline,
        judge: Judge,
        rules: Checker,
        notes: Notes,
        penalties: PenaltyTracker,
        listeners: Listeners,
    ) -> None:
        self.baseline, self._judge, self._rules = baseline, judge, rules
        self._notes, self._penalties, self._listeners = notes, penalties, listeners
        self._known = "baseline_loss" in notes.capture
        self._settled = False

    def see_loss(self, loss: Tensor | float | None) -> None:
        """Look at a logged loss, in the training thread: what kind of loss it is."""
        self.baseline.see_loss(loss)
        if self.baseline.is_pure and (said := self._penalties.loss_is_pure(self.baseline.loss_function)):
            self._notes.capture["declared_penalty"] = said
            self._notes.warn_here(said)

    def settle(self, rows: Rows) -> None:
        """Set the baseline before rows are judged, where it is better known than before."""
        if "loss" not in rows:
            return
        if not self._settled and (said := self._penalties.loss_below_zero(rows["loss"])) is not None:
            self._notes.capture["declared_penalty"] = said
            self._notes.warn_here(said)
        first, self._settled = not self._settled, True
        found = None if self._known else self.baseline.see_rows(rows["step"], rows["loss"])
        if first:
            self._tell_slips()
        self._tell_part()
        if found is not None:
            self._tell(int(rows["step"][0]), *found)

    def _tell(self, step: int, baseline: float, source: str) -> None:
        history = [*self._notes.capture.get("baseline_history", []), [step, baseline, source]]
        kind = self.baseline.loss_kind
        self._change(
            baseline_loss=baseline, baseline_source=source, baseline_history=history_of(history), loss_kind=kind
        )
        if len(history) == 1 and not math.isnan(zero := self.baseline.of_zero):  # that of the first rows, for good
            self._notes.add(loss_of_zero=zero)
            self._change(loss_of_zero=zero)
        self._notes.writer.set_attribute("baseline_loss", baseline)
        self._notes.add(
            baseline_loss=source,
            baseline_history=history,
            loss_function=self.baseline.loss_function,
            loss_kind=kind,
        )

    def _tell_part(self) -> None:
        """Note where the terms of the loss that were seen are by now, where the logged loss has others."""
        part = round(self.baseline.part, 3)
        if not math.isnan(part) and part != self._judge.info.part_of_loss:
            self._notes.add(part_of_loss=part)
            self._change(part_of_loss=part)

    def _tell_slips(self) -> None:
        said: dict[str, Any] = {}
        if self._listeners.kept.never_cleared:
            said["gradients_never_cleared"] = True
            self._change(never_cleared=True)
        if self.baseline.probabilities:
            said["loss_takes_probabilities"] = True
            self._change(probabilities=True)
        if (share := self._listeners.scaled_weights.share) and not self._penalties.ours:
            said["weights_scaled_by_hand"] = share
            self._change(by_hand=self._judge.info.by_hand + share)  # the optimizer's own decay is there already
        if (left := self._listeners.gradients.cut_by_value) < 1:
            said["cut_by_value"] = left
            self._change(cut_by_value=left)
        if said:
            self._notes.add(**said)

    def _change(self, **told: Any) -> None:
        """Change what judge and rules know of the run."""
        self._judge.info = replace(self._judge.info, **told)
        self._rules.facts = replace(self._rules.facts, **told)
