"""Restart policies: told how an attempt ended, asked what to do next. They start nothing themselves.

The answer of a policy depends on nothing but the attempts it was told of: told of them again, after the supervisor was
killed, it answers the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from gradscope.diagnosis.cause import PENALTY, UNKNOWN
from gradscope.diagnosis.remedies import NO_DELAY
from gradscope.regularizers.schedules import parse_schedule
from gradscope.restart.attempt import Attempt
from gradscope.types import InputError, Verdict

STARTS = ("start", "checkpoint")


@dataclass(frozen=True)
class Decision:
    """Either the schedule of the next attempt, or the end and why.

    Attributes:
        start: whether another attempt follows.
        schedule: of the next attempt, None for the script's own.
        reason: why, in a sentence.
        from_checkpoint: it should go on from the last healthy checkpoint, if there is one.
        without_penalty: an experiment, ended as soon as it is in its active phase.
    """

    start: bool
    schedule: str | None = None
    reason: str = ""
    from_checkpoint: bool = False
    without_penalty: bool = False


class Policy(Protocol):
    """Decider on restarts, asked by the supervisor and `gradscope.Restarts`.

    ``tests/restart/test_policies.py`` holds every policy to it.

    Attributes:
        text: what has to be the same for another call to go on with a history.
        from_checkpoints: it may want to go on from a checkpoint, so that they have to be taken.
    """

    text: str
    from_checkpoints: bool

    def ask(self) -> Decision:
        """Decide what to do now; asking twice changes nothing."""
        ...

    def tell(self, attempt: Attempt) -> None:
        """Take an attempt that is over."""
        ...


class NeverRestart:
    """Policy of one attempt, stopped where it fails.

    Args:
        schedule: of the attempt.
    """

    from_checkpoints = False

    def __init__(self, schedule: str | None = None) -> None:
        self.text = f"never, first {schedule or 'constant'}"
        self._first = schedule
        self._last: Attempt | None = None

    def ask(self) -> Decision:
        """Start once."""
        if self._last is None:
            return Decision(True, self._first)
        return Decision(False, reason=_outcome(self._last) or "the run failed, and restarts are off")

    def tell(self, attempt: Attempt) -> None:
        """Take the attempt that is over."""
        self._last = attempt


class DelayedRestart:
    """Policy that starts a run which fails under its penalty again, as strong, with a delay (Park et al., eq. 8).

    It abstains where a delay cannot help: no penalty acted, the penalty is not what stopped the run, or the run failed
    although its penalty had waited until it was learning. Where the record does not tell whether it is the penalty, a
    run without it comes first, which is no restart. A fixed delay that failed is followed by ``delayed:auto`` where a
    restart is left.

    Args:
        schedule: of the first attempt; its other factors are kept: ``delayed:2*taper:sch01`` goes on as
            ``delayed:auto*taper:sch01``.
        restart: ``delayed`` (until the run's own record shows the active phase), ``delayed:5`` (epochs) or
            ``delayed:2000steps``.
        max_restarts: how often at most.
        start_from: ``start``, or ``checkpoint`` for the last healthy one.

    Raises:
        InputError: one of them cannot be used.
    """

    def __init__(
        self, schedule: str | None = None, restart: str = "delayed", max_restarts: int = 1, start_from: str = "start"
    ) -> None:
        if not re.fullmatch(r"delayed(:auto|:\d+(\.\d+)?(epochs?)?|:\d+steps?)?", restart):
            raise InputError(f"restart is {restart!r}; expected delayed, delayed:5 (epochs), delayed:2000steps or none")
        if max_restarts < 0:
            raise InputError(f"max_restarts is {max_restarts}; expected at least 0")
        if start_from not in STARTS:
            raise InputError(f"a restart from {start_from!r}; expected one of {', '.join(STARTS)}")
        self._first = schedule
        self._again = _delayed(schedule, "delayed:auto" if restart == "delayed" else restart)
        self._auto = _delayed(schedule, "delayed:auto")
        self._max = max_restarts
        self.from_checkpoints = start_from == "checkpoint"
        self.text = f"{self._again} from {start_from}, first {schedule or 'constant'}"
        self._told: list[Attempt] = []

    def ask(self) -> Decision:
        """Decide what to do now."""
        if not self._told:
            return Decision(True, self._first)
        last, tried = self._told[-1], [a for a in self._told if not self._without(a)]
        restarts = len(tried) - 1
        if self._without(last):
            if last.diagnosis.failed:
                why = f"it fails without its penalty too, so no delay can help: {last.diagnosis.remedy}"
                return Decision(False, reason=why)
            found = "it learns" if last.diagnosis.verdict is Verdict.HEALTHY else "the run stays undecided"
            why = f"again with {self._again} (without its penalty {found})"
            return Decision(True, self._again, why, self.from_checkpoints)
        if (reason := _outcome(last) or self._cannot_help(last)) is not None:
            return Decision(False, reason=reason)
        if restarts >= self._max:
            return Decision(False, reason=f"{last.diagnosis.sentence}, and no restart is left")
        before = f"(the last attempt: {last.diagnosis.sentence})"
        if last.diagnosis.asks_without_penalty and len(tried) == len(self._told):
            why = f"without its penalty, to tell whether that is the cause {before}"
            return Decision(True, None, why, without_penalty=True)
        schedule = self._auto if restarts else self._again
        return Decision(True, schedule, f"again with {schedule} {before}", self.from_checkpoints)

    def tell(self, attempt: Attempt) -> None:
        """Take an attempt that is over."""
        self._told.append(attempt)

    def _without(self, attempt: Attempt) -> bool:
        """Return whether an attempt was the experiment without the penalty."""
        return attempt.strength == 0 and self._told[0].strength != 0

    def _cannot_help(self, last: Attempt) -> str | None:
        diagnosis = last.diagnosis
        waited = "delayed:auto" in (last.schedule or "").split("*")
        if diagnosis.verdict not in (Verdict.COLLAPSED, Verdict.STALLED):
            return f"{diagnosis.verdict}: {diagnosis.remedy}"
        if diagnosis.remedy.startswith(NO_DELAY):
            return diagnosis.remedy
        if diagnosis.cause not in ("", PENALTY, UNKNOWN) and not diagnosis.asks_without_penalty:
            return f"{diagnosis.verdict}, and the penalty is not the cause: {diagnosis.remedy}"
        if last.switched_on is None:
            why = "the run does not learn without its penalty either" if waited else "no penalty acted in this run"
            return f"{why}, so no delay can help: {diagnosis.remedy}"
        if waited:
            return (
                f"the penalty came on at step {last.switched_on}, when the run was learning, and it failed all the "
                f"same: the strength is beyond what a delay can save; use a lower one "
                f"(gradscope search --delayed finds it)"
            )
        return None


def _outcome(last: Attempt) -> str | None:
    """Describe the end of an attempt that did not fail; None for one that did."""
    if last.diagnosis.failed:
        return None
    if last.never_penalised:
        return (
            "the run learns, but its delayed penalty never came on, so that nothing is known of it under its penalty; "
            "train longer, or give the delay in steps or epochs"
        )
    if last.diagnosis.verdict is Verdict.HEALTHY and last.delayed:
        return (
            f"the run learns; its penalty came on at step {last.switched_on} of {last.steps} and acted for "
            f"{last.acted:.2g} e-folding times"
        )
    if last.diagnosis.verdict is Verdict.HEALTHY:
        return "the run learns"
    return f"the record shows no outcome: {'; '.join(last.diagnosis.evidence)}"


def _delayed(schedule: str | None, delay: str) -> str:
    """Put this delay in the place of the schedule's own, and check the result.

    Returns:
        The schedule's text.

    Raises:
        InputError: no schedule can be made of it.
    """
    others = [part for part in (schedule or "").split("*") if part and not re.match(r"delayed:|constant$", part)]
    text = "*".join([delay, *others])
    try:
        parse_schedule(text)
    except InputError as error:
        raise InputError(f"{error}; so a run with --schedule {schedule} cannot be restarted: --restart none") from None
    return text


def policy_for(
    schedule: str | None = None, restart: str = "delayed", max_restarts: int = 1, start_from: str = "start"
) -> Policy:
    """Make the policy that ``--restart`` and its companions describe.

    Args:
        schedule: of the first attempt.
        restart: ``none``, or as in `DelayedRestart`.
        max_restarts: how often at most.
        start_from: ``start`` or ``checkpoint``.

    Returns:
        The policy.

    Raises:
        InputError: one of them cannot be used.
    """  # noqa: DOC502 - raised by what it calls
    if restart == "none":
        return NeverRestart(schedule)
    return DelayedRestart(schedule, restart, max_restarts, start_from)
