"""Do what is due where a row begins: the training thread is between two steps, and may be told and stopped."""

from __future__ import annotations

import signal
from dataclasses import replace

from gradscope.processes import instructions
from gradscope.processes.instructions import Instructions
from gradscope.processes.termination import Termination
from gradscope.recorder.baseline.assumed import AssumedBaseline
from gradscope.recorder.recorder import Recorder
from gradscope.recording.actions import Actions
from gradscope.recording.closing import Closing
from gradscope.recording.live_judge import LiveJudge
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.types import InputError


class BetweenSteps:
    """Callback between steps, which updates penalties, epochs and the record's notes, and lets `Actions` act."""

    def __init__(
        self,
        notes: Notes,
        penalties: PenaltyTracker,
        live: LiveJudge,
        recorder: Recorder,
        actions: Actions,
        closing: Closing,
        termination: Termination,
        baseline: AssumedBaseline,
        asked: Instructions,
        steps_per_epoch: int | None,
    ) -> None:
        self._notes, self._penalties, self._live, self._recorder = notes, penalties, live, recorder
        self._timeline, self._actions, self._termination = recorder.timeline, actions, termination
        self._baseline, self._closing = baseline, closing
        self._asked, self._steps_per_epoch = asked, steps_per_epoch
        self._is_probe = asked.probe_steps is not None

    def before_step(self, step: int) -> None:
        """Do what is due when a row begins, before the optimizer has done anything.

        Args:
            step: the number of the step.

        Raises:
            SystemExit: a SIGTERM has come, or the run is ended for its supervisor.
            LearningFailure: the run does not learn, and ``on_failure`` is ``raise``; or whatever a function raises that
                is given for it.
        """  # noqa: DOC502 - raised by what it calls
        self._notes.give_problem()
        if self._termination.asked:
            self._notes.writer.event(step, "stopped", "ended by SIGTERM")
            self._closing.close("failed", together=False)
            raise SystemExit(128 + signal.SIGTERM)
        self._penalties.step = step
        if self._steps_per_epoch is not None:
            self.set_epoch(step // self._steps_per_epoch)
        if self._penalties.changed():
            self._change_penalties(step)
        if step == self._timeline.first_step:
            self._check_script()
        if self._baseline.shape:
            self._baseline.unwatch()
        self._notes.give_warnings()
        if self._live.at_border(self._timeline.rows):
            self._actions.at_border(step)
        if self._is_probe:
            self._actions.of_a_probe(step)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, for rows and schedules."""
        self._timeline.epoch = epoch
        self._penalties.set_epoch(epoch)

    def missed(self, text: str) -> None:
        """Note that the training goes on, and none of its steps is seen."""
        self._notes.add(steps_not_seen=text)
        self._notes.writer.event(self._timeline.step, "warning", text)
        self._notes.warn_here(text)
        if not self._closing.closed:  # no step will come to give it
            self._notes.give_warnings()

    def _change_penalties(self, step: int) -> None:
        """Take in penalties attached or removed, parameter groups that were added, parameters that were thawed."""
        self._penalties.refresh()
        self._recorder.change(self._penalties.probe)
        judge = self._live.judge
        judge.info = replace(judge.info, penalty=self._penalties.name)
        self._notes.writer.set_attribute("penalty", self._penalties.name)
        if self._penalties.thawed:
            self._notes.add(thawed=self._penalties.thawed)
        if self._penalties.grown() and "added_later" not in self._notes.capture:
            text = f"the strength and learning rate of parameter groups added later (step {step}) are not recorded"
            self._notes.capture["added_later"] = text
            self._notes.warn_here(text)

    def _check_script(self) -> None:
        """Check before the first step what was asked of the script: it can only be told now."""
        try:
            self._penalties.check()
            if instructions.ignores_its_checkpoint(self._asked):
                raise InputError(
                    f"the script was to go on from {self._asked.resume}, and has not: call restore() or epochs() "
                    f"of gradscope.Checkpoint, or load gradscope.resume_from(), before the first step"
                )
        except InputError as error:
            instructions.refuse(error)
