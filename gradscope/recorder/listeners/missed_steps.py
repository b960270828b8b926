"""Detect a training of which no step is seen: another optimizer steps, a copy of it, or none.

What tells is at hand anyway at the end of a backward pass: since the last pass the weights were written to, or the
gradients replaced, and no recorded optimizer has stepped. A training of a copy of the model makes no passes at all, but
its losses are logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from gradscope.recorder.listener import Listener
from gradscope.recorder.meter import Meter
from gradscope.recorder.row_buffer import RowBuffer
from gradscope.recorder.timeline import Timeline

#: Rounds without a step, in a row, before it is said: in which weights moved; in which gradients were only
#: replaced, as loops may do that look at gradients; in which a loss was logged, with no pass at all.
MOVED, REPLACED, LOGGED = 4, 16, 8


class MissedSteps(Listener):
    """Listener that counts rounds without a step.

    Args:
        timeline: steps and rows.
        buffer: the rows.
        tell: called once of an optimizer, with what is to be said.

    Attributes:
        missing: the optimizers, by identity, of which steps are missed at the moment.
    """

    def __init__(self, timeline: Timeline, buffer: RowBuffer, tell: Callable[[str], None]) -> None:
        self._timeline, self._buffer, self._tell = timeline, buffer, tell
        self.missing: set[int] = set()
        self._told: set[int] = set()  # of which that was said
        self._logged = 0  # losses since the last step or backward pass
        self._suspicious = False
        self._rounds: dict[Meter, Rounds] = {}
        self._of: dict[int, list[Rounds]] = {}

    def lay_out(self, meters: Sequence[Meter]) -> None:
        """Begin to count for these meters."""
        self._rounds = {meter: Rounds(meter) for meter in meters}
        #: Of all optimizers that move some of the same weights.
        self._of = {
            a: [rounds for b in rivals for meter, rounds in self._rounds.items() if id(meter.optimizer) == b]
            for a, rivals in self._timeline.rivals.items()
        }

    def detach(self) -> None:
        """Look a last time."""
        if not self._buffer.stopped:
            self._look(at_the_end=True)

    def meter_passed(self, meter: Meter) -> None:
        """Note a pass without a step."""
        self._suspicious |= self._rounds[meter].passed()

    def passes_measured(self) -> None:
        """Look where a pass was suspicious."""
        self._logged = 0
        if self._suspicious:
            self._suspicious = False
            self._look()

    def step_seen(self, optimizer: Optimizer) -> None:
        """Start the count afresh for this optimizer's weights."""
        self._logged = 0
        if self.missing:
            self.missing -= self._timeline.rivals[id(optimizer)]
        for rounds in self._of[id(optimizer)]:
            rounds.stepped()

    def loss_logged(self) -> None:
        """Note that the loop has logged a loss."""
        self._logged += 1
        if self._logged >= LOGGED:
            self._look()

    def _look(self, at_the_end: bool = False) -> None:
        """Say once of an optimizer that none of its steps is seen."""
        timeline = self._timeline
        found = {m: text for m, rounds in self._rounds.items() if (text := rounds.found(at_the_end))}
        if not found and self._logged >= LOGGED:
            found = dict.fromkeys(self._rounds, f"the loss was logged {self._logged} times without a backward pass")
        if at_the_end and not found and not timeline.rows and any(r.passes > 1 for r in self._rounds.values()):
            found = dict.fromkeys(self._rounds, "there were backward passes")
        self.missing |= {id(meter.optimizer) for meter in found}
        new = {m: text for m, text in found.items() if id(m.optimizer) not in self._told}
        if new:
            self._told |= self.missing
            names = [type(meter.optimizer).__name__ for meter in new]
            self._tell(_sentence(names, next(iter(new.values())), timeline.step if timeline.rows else -1))


class Rounds:
    """Rounds since a step of one optimizer was seen."""

    def __init__(self, meter: Meter) -> None:
        trainable = [w for w in meter.weights if w.requires_grad and not w.is_inference()]
        self._weight: Tensor | None = None if meter.sharded or not trainable else trainable[0]
        self._limits = [MOVED, REPLACED]
        self._counts = [0, 0]
        self._counted = False
        self._version = 0
        self._gradient: tuple[int, int] | None = None
        self.passes = 0
        self.stepped()

    def stepped(self) -> None:
        """Start afresh: a step of this optimizer, or of another on its weights, has ended."""
        if self._counted:  # a loop may have such rounds in every step
            for which, count in enumerate(self._counts):
                if count:
                    self._limits[which] = max(self._limits[which], 2 * count + 1)
                    self._counts[which] = 0
            self._counted = False
        self._gradient = None
        if self._weight is not None:
            self._version = self._weight._version

    def passed(self) -> bool:
        """Note a backward pass outside of a step; return whether there is anything to be looked at."""
        self.passes += 1
        if self._weight is None or (gradient := self._weight.grad) is None:
            return self._counted
        version, before = self._weight._version, self._gradient
        self._gradient = id(gradient), gradient._version
        moved, self._version = version != self._version, version
        if before is None or self._gradient != (before[0], before[1] + 1):  # else accumulated
            self._counts[0] += moved
            self._counts[1] += before is not None
            self._counted = self._counted or moved or before is not None
        return self._counted

    def found(self, at_the_end: bool = False) -> str:
        """Return what tells that steps are missed, empty while nothing does."""
        moved, replaced = self._counts
        if moved >= (2 if at_the_end else self._limits[0]):
            return f"the weights were changed before {moved} backward passes"
        if replaced >= self._limits[1]:
            return f"gradients were replaced in {replaced} backward passes"
        return ""


def _sentence(names: Iterable[str], found: str, step: int) -> str:
    """Write the warning: whose steps, what tells, what to do."""
    rows = "nothing is recorded" if step < 0 else f"its rows end at step {step}"
    return (
        f"no step of the recorded {', '.join(dict.fromkeys(names))} is seen, though {found}: {rows}; another "
        f"optimizer steps, or a copy, or none: give record() the model and the optimizer that are trained"
    )
