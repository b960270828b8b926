"""Recording in progress, as a training loop and its user see it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch import Tensor

from gradscope import checks
from gradscope.card import card
from gradscope.diagnosis.rules.derived import VALIDATION
from gradscope.diagnosis.rules.finding import Finding
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.processes.instructions import Stopped
from gradscope.recorder.recorder import Recorder
from gradscope.recorder.scalars import scalar
from gradscope.recording.baseline_settler import BaselineSettler
from gradscope.recording.between_steps import BetweenSteps
from gradscope.recording.closing import Closing
from gradscope.recording.live_judge import LiveJudge
from gradscope.recording.notes import Notes
from gradscope.recording.penalty_tracker import PenaltyTracker
from gradscope.restart.resumption import KeptCheckpoints
from gradscope.store.names import Names
from gradscope.torch_utils.eager import eager
from gradscope.types import InputError, LearningFailure


class Recording:
    """Recording in progress; made by `record`. A context manager.

    Attributes:
        path: of the record.
        owned: it is inside a ``with`` block, which will close it.
    """

    def __init__(
        self,
        notes: Notes,
        recorder: Recorder,
        penalties: PenaltyTracker,
        live: LiveJudge,
        settler: BaselineSettler,
        between_steps: BetweenSteps,
        closing: Closing,
        kept: KeptCheckpoints | None,
    ) -> None:
        self.path, self.owned = notes.path, False
        self._notes, self._recorder, self._penalties, self._live = notes, recorder, penalties, live
        self._settler, self._between_steps, self._closing, self._kept = settler, between_steps, closing, kept
        self._baseline, self._timeline = settler.baseline, recorder.timeline
        self._gave_way = False
        self._names = {call: Names(call) for call in ("log", "epoch")}

    # -- what a training loop calls ---------------------------------------------------------------

    @eager
    def log(self, /, **scalars: Tensor | float) -> None:
        """Log scalars of the latest backward's step, such as ``loss=loss``. Tensors do not synchronise.

        Args:
            scalars: by name; numbers or tensors of one entry.

        Raises:
            InputError: the recording is closed, or a name or value cannot be used.
        """  # noqa: DOC502 - raised by what it calls
        if self._is_over("log"):
            return
        if (error := self._recorder.buffer.check()) is not None:
            self._notes.ended_by(error)
        if not self._baseline.loss_function:
            self._settler.see_loss(scalars.get("loss"))
        named = self._names["log"].stored(scalars)
        self._penalties.observe(named)
        self._recorder.log(named)

    @eager
    def epoch(self, /, epoch: int, **metrics: Tensor | float) -> None:
        """Note that an epoch begins, or add metrics to it, such as ``accuracy=0.93``.

        Args:
            epoch: its number; a second call for the same one adds to the first.
            metrics: by name.

        Raises:
            InputError: the recording is closed, or something given cannot be used.
        """  # noqa: DOC502 - raised by what it calls
        if self._is_over("call epoch"):
            return
        epoch = checks.whole_number(epoch, "epoch")
        if self._kept is not None and epoch != self._timeline.epoch and not self._closing.told:
            self._kept.offer(self._timeline.step + 1)
        self._between_steps.set_epoch(epoch)
        stored = self._names["epoch"].stored(metrics)
        numbers = {name: scalar(name, value, "epoch") for name, value in stored.items()}
        self._notes.writer.epoch(epoch, numbers)
        if (loss := next((numbers[name] for name in VALIDATION if name in numbers), None)) is not None:
            self._live.rules.of_epochs[epoch] = loss

    def close(self, failed: bool = False) -> None:
        """Finish the file and remove every hook; closing twice does nothing.

        Args:
            failed: the run failed; its status says so.
        """
        self._closing.close("failed" if failed else "finished")

    def give_way(self) -> None:
        """Finish the file, for another recording of the same path or parameters; later calls of the loop are ignored.

        The user of that loop has been warned, and goes on training.
        """
        self._gave_way = True
        self.close()

    def _is_over(self, call: str) -> bool:
        """Return whether later calls are to be ignored; raise `InputError` after a `close` of the user's own."""
        if self._closing.closed and not self._gave_way:
            raise InputError(f"the recording {self.path} is closed; {call} before close()")
        return self._closing.closed

    def __enter__(self) -> Self:
        self.owned = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error of this rank alone the others may never come to the same place: then nothing is gathered.
        together = kind is None or issubclass(kind, LearningFailure | Stopped)
        self._closing.close("finished" if kind is None else "failed", together)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Among the arguments of a script it comes into checkpoints; they hold the path of the record.
        return str, (str(self.path),)

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied trainer logs to the same recording

    # -- what its user asks -----------------------------------------------------------------------

    @property
    def verdict(self) -> Diagnosis:
        """Diagnosis so far, from the rows that have left the device."""
        self._fetch()
        return self._live.diagnosis(finished=self._closing.status == "finished")

    @property
    def findings(self) -> list[Finding]:
        """What the rules beside the verdict have found so far, in the rows that have left the device."""
        self._fetch()
        return list(self._live.rules.findings)

    def _fetch(self) -> None:
        """Judge all finished rows, where that does not mean to wait for a device."""
        if not self._closing.closed and not self._recorder.buffer.on_accelerator:
            self._recorder.fetch()

    @property
    def active_step(self) -> int | None:
        """Step at which the active phase began, where a penalty that waits for it comes on; None before."""
        return self._live.judge.active_step

    @property
    def next_step(self) -> int:
        """Number of the coming optimizer step: the ``resume_step`` of a checkpoint that is made now."""
        return self._timeline.step + 1

    def _repr_html_(self) -> str:
        """Draw a card with the verdict so far for notebooks."""
        found = self.verdict
        tone = "failed" if found.failed else str(found.verdict)
        facts = {"record": self.path, "status": self._closing.status, "rows judged": len(self._live.judge.series)}
        besides = [f"{finding.now}: {finding.suggestion}" for finding in found.told]
        return card(found.sentence, tone, [*found.evidence, *besides], facts)
