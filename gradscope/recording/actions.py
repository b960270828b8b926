"""Act on what the judge has found: tell, raise, or end the training."""

from __future__ import annotations

import os
import sys
import threading

from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradscope.diagnosis.verdict import Diagnosis
from gradscope.processes import instructions
from gradscope.processes.instructions import Instructions, Stopped
from gradscope.recorder.recorder import Recorder
from gradscope.recording.closing import Closing
from gradscope.recording.live_judge import CHUNK, LiveJudge
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.recording.record_options import RecordOptions
from gradscope.types import LearningFailure


class Actions:
    """Actions on decisions at the borders between chunks of rows, in the training thread."""

    def __init__(
        self,
        options: RecordOptions,
        asked: Instructions,
        notes: Notes,
        penalties: PenaltyTracker,
        live: LiveJudge,
        recorder: Recorder,
        closing: Closing,
    ) -> None:
        self._notes, self._penalties, self._live, self._recorder = notes, penalties, live, recorder
        self._closing = closing
        self._on_failure, self._checkpoint = options.on_failure, options.checkpoint
        self._stops_success = asked.on_success == "stop"
        self._probe_steps, self._probe_until = asked.probe_steps, asked.probe_until
        self._active = False

    def at_border(self, step: int) -> None:
        """Let what the judge has decided take effect."""
        stopping = self._stops_success or self._on_failure not in ("ignore", "warn") or self._probe_until == "active"
        buffer = self._recorder.buffer
        if stopping or self._penalties.waiting():
            found = buffer.ranks.agree(self._live.decisions(self._recorder.fetch))
            buffer.kick()
        else:
            found = self._live.latest  # nothing in the run depends on it: no need to wait, nor to hurry
        if found.active_step is not None:
            self._active = True
            self._penalties.active_phase(step)
        if found.diagnosis is not None and not self._closing.told:
            self._failed(step, found.diagnosis)
        if self._stops_success and found.settled_step is not None and found.failure is None:
            self._notes.writer.event(step, "stopped", "the run learns and holds under its penalty")
            self._end("finished", "the run learns")

    def of_a_probe(self, step: int) -> None:
        """End a probe of `gradscope suggest` once it has shown what it is for."""
        if self._probe_steps is not None and self._is_probed(self._probe_steps):
            self._notes.writer.event(step, "stopped", "the probe has the steps that it was to take")
            self._end("finished", "the probe is over")

    def _is_probed(self, steps: int) -> bool:
        rows = self._recorder.timeline.rows
        if rows >= steps or (self._probe_until == "active" and self._active):
            return True
        if self._probe_until != "escape" or (rows - 1) % CHUNK:  # a row is finished when one follows
            return False
        self._recorder.fetch()
        return self._live.escaped

    def _failed(self, step: int, diagnosis: Diagnosis) -> None:
        """Act on a run that was found not to learn."""
        self._closing.tell_failure(step, diagnosis)
        if self._on_failure == "raise":
            self._closing.close("failed")
            raise LearningFailure(diagnosis.explanation, diagnosis)
        if self._on_failure == "stop":
            self._notes.writer.event(step, "stopped", f"stopped by gradscope: {diagnosis.sentence}")
            if self._checkpoint is not None:
                self._checkpoint(self._notes.path.with_suffix(".stopped.pt"))
            self._end("failed", diagnosis.sentence)

    def _end(self, status: str, reason: str) -> None:
        """Finish the file and end the training: the process, or the function that a search has called."""
        self._closing.close(status)
        if not instructions.inside_search():
            if threading.current_thread() is not threading.main_thread():
                _exit_now()  # SystemExit would end this thread alone
            # A loop that swallows SystemExit must not train on: its next step ends the process.
            register_optimizer_step_pre_hook(lambda *_: _exit_now())
        raise Stopped(reason)


def _exit_now() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(instructions.EXIT_STOPPED)
