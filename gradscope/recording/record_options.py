"""Options of `record`, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradscope import checks
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.processes.instructions import ON_FAILURE, Instructions
from gradscope.recorder.cadence import BySize, Cadence, Given, cadences, of_size
from gradscope.recorder.presets import PRESETS
from gradscope.recording.sink import Sink, checked_sinks
from gradscope.regularizers.penalties import Penalty
from gradscope.regularizers.term import Term
from gradscope.store.record_path import LATER_ROWS
from gradscope.store.storage import Storage
from gradscope.torch_utils.selection import SelectModules, SelectTensors
from gradscope.types import InputError

#: What to do when a run is found not to learn: a word, or a function that is given the diagnosis.
OnFailure = str | Callable[[Diagnosis], None]


@dataclass(frozen=True)
class RecordOptions:
    """Options of `record` beside model, optimizer and path: its docstring explains each, its signature the defaults.

    ``penalty``, ``select``, ``modules`` and ``mode`` are checked where the optimizers, the model and the file are at
    hand.

    Attributes:
        cadences: of each kind of quantity, from ``every`` and ``preset``; see `cadences_of`.
        checked_sinks: ``sinks``, with a sink in the place of each plug-in's name.

    Raises:
        InputError: one of them cannot be used.
    """

    penalty: tuple[Penalty, float] | Term | None
    every: Given
    preset: str
    select: SelectTensors | None
    modules: SelectModules | None
    on_failure: OnFailure
    steps_per_epoch: int | None
    horizon: int | None
    baseline_loss: float | None
    mode: str
    resume_step: int | None
    later_rows: str
    checkpoint: Callable[[Path], object] | None
    sinks: Sequence[Sink | str]
    storage: Storage
    check_strength: bool
    cadences: Mapping[str, Cadence | BySize] = field(init=False)
    checked_sinks: Sequence[Sink] = field(init=False)

    def __post_init__(self) -> None:
        preset = PRESETS[checks.one_of(self.preset, PRESETS, "preset")]
        self._set("cadences", cadences(self.every, preset.cadences))
        check_on_failure(self.on_failure)
        for name in ("steps_per_epoch", "horizon"):
            if (count := getattr(self, name)) is not None:
                self._set(name, checks.positive_int(count, name))
        if self.baseline_loss is not None:
            self._set("baseline_loss", checks.finite(self.baseline_loss, "baseline_loss"))
        _check_resume_step(self.resume_step, self.mode)
        checks.one_of(self.later_rows, LATER_ROWS, "later_rows")
        self._set("checked_sinks", checked_sinks(self.sinks))
        self._set("sinks", self.checked_sinks)
        checks.instance(self.storage, Storage, "storage")
        checks.instance(self.check_strength, bool, "check_strength")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def cadences_of(self, tensors: int) -> dict[str, Cadence]:
        """Return the cadence of each kind of quantity for a recording of so many tensors."""
        return of_size(self.cadences, tensors)

    def obeying(self, asked: Instructions) -> RecordOptions:
        """Return these options with what a supervisor asks for: its instructions beat the arguments."""
        mine = replace(self, on_failure=asked.on_failure or self.on_failure)
        return mine if asked.resume_step is None else replace(mine, mode="append", resume_step=asked.resume_step)


def check_on_failure(on_failure: OnFailure) -> None:
    """Check that it is a function or a word that is known; else raise `InputError`."""
    if not callable(on_failure):
        checks.one_of(on_failure, ON_FAILURE, "on_failure")


def _check_resume_step(step: int | None, mode: str) -> None:
    if step is None:
        return
    if mode != "append":
        raise InputError(f"resume_step is {step!r} and mode is {mode!r}; resume_step goes with mode='append'")
    if not isinstance(step, int) or step < 0:
        raise InputError(f"resume_step is {step!r}; expected a whole number of at least 0")
