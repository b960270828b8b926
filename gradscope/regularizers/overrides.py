"""Replace a script's penalty by what the environment asks for: another strength, or a schedule over time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

from gradscope.optimizers.decay import decay_of
from gradscope.optimizers.parameter_groups import weight_decay
from gradscope.regularizers.attach import Regularization, ScheduledDecay
from gradscope.regularizers.groups import parse_penalty
from gradscope.regularizers.hooks import Attached, attached_to
from gradscope.regularizers.penalties import L2, Penalty
from gradscope.regularizers.schedule import Schedule, Times
from gradscope.regularizers.schedules import parse_schedule
from gradscope.regularizers.term import PREFIX, TermPenalty
from gradscope.types import InputError

Undo = Callable[[], None]


def obey(
    optimizers: Sequence[Optimizer], strength: float | None, penalty: str | None, schedule: str | None
) -> list[Undo]:
    """Apply the asked-for strength or schedule to these optimizers for the time of a recording.

    A strength replaces the script's penalty on parameters with more than one dimension. A schedule alone multiplies
    whatever penalty the script set. What another recording has put on stays as it is.

    Args:
        optimizers: those of the script.
        strength: λ, None where the script's own stays.
        penalty: name of the penalty that a strength belongs to, L2 if None.
        schedule: text of a schedule, None for none.

    Returns:
        Functions that undo it.

    Raises:
        InputError: the schedule cannot be put over the script's penalty, or nothing is there to act on.
    """
    when = parse_schedule(schedule or "constant", strength if strength is not None else 1.0)
    if when.stands == "alone" or (strength is None and when.stands == "first"):
        raise InputError(
            f"the schedule {when.text} sets a strength of its own and cannot be put over a script's penalty; "
            f"give it to gradscope.regularize in the script"
            + ("" if when.stands == "alone" else ", or give a strength")
        )
    for handle in [handle for optimizer in optimizers for handle in attached_to(optimizer)]:
        if schedule is not None and strength is None and handle.schedule.stands == "alone":
            raise InputError(
                f"GRADSCOPE_SCHEDULE is {schedule!r}, and {handle!r} of the script has no strength to follow it"
            )
    terms = [h for o in optimizers for h in attached_to(o) if isinstance(h, TermPenalty)]
    if strength is not None and (terms or (penalty or "").startswith(PREFIX)):
        return _set_term(terms, penalty or "l2", when)
    kind = parse_penalty(penalty or "l2")
    undo: list[Undo] = []
    for optimizer in optimizers:
        if optimizer in _OBEYING:
            continue
        if strength is not None:
            undo += _replace(optimizer, kind, when)
        elif schedule is not None:
            undo += _multiply(optimizer, schedule)
        else:
            continue
        _OBEYING.add(optimizer)
        undo.append(lambda optimizer=optimizer: _OBEYING.discard(optimizer))  # type: ignore[misc]
    if strength is not None and not any(_matrices(optimizer) for optimizer in optimizers):
        raise InputError("no parameter has more than one dimension, so GRADSCOPE_STRENGTH has nothing to act on")
    return undo


_OBEYING: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _matrices(optimizer: Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.ndim > 1]


def _set_term(terms: Sequence[TermPenalty], penalty: str, schedule: Schedule) -> list[Undo]:
    """Let the term that is asked for follow another schedule for the time of the recording."""
    names = ", ".join(dict.fromkeys(term.name for term in terms)) or "none: give record a Term as its penalty"
    if not penalty.startswith(PREFIX):
        raise InputError(
            f"the record is about {names}, and {penalty} was asked for: search the term, with --penalty {names}, or "
            f"put it into the data loss"
        )
    meant = [term for term in terms if term.name == penalty]
    if not meant:
        raise InputError(f"there is no {penalty} among the penalties of the script; it has {names}")
    for term in meant:
        term.own_schedule, term.schedule = term.schedule, schedule
    return [lambda term=term: _give_back(term) for term in meant]  # type: ignore[misc]


def _multiply(optimizer: Optimizer, schedule: str) -> list[Undo]:
    undo: list[Undo] = []
    for handle in attached_to(optimizer):
        own = handle.schedule
        if not handle.penalises:
            continue
        handle.schedule, handle.own_schedule = Times(own, parse_schedule(schedule)), own
        undo.append(lambda handle=handle: _give_back(handle))  # type: ignore[misc]
    if any(weight_decay(group) for group in optimizer.param_groups):
        made = ScheduledDecay(optimizer, parse_schedule(schedule))
        made.temporary = True
        undo.append(made.detach)
    return undo


def _give_back(handle: Attached) -> None:
    if handle.own_schedule is not None:
        handle.schedule, handle.own_schedule = handle.own_schedule, None


def _replace(optimizer: Optimizer, penalty: Penalty, schedule: Schedule) -> list[Undo]:
    undo: list[Undo] = []
    for handle in attached_to(optimizer):
        if not handle.penalises:
            continue
        handle.suspended = True
        undo.append(lambda handle=handle: setattr(handle, "suspended", False))  # type: ignore[misc]
    if parameters := _matrices(optimizer):
        group = next(g for g in optimizer.param_groups if any(p.ndim > 1 for p in g["params"]))
        decoupled = isinstance(penalty, L2) and decay_of(optimizer, group).decoupled
        made = Regularization(optimizer, penalty, schedule, parameters, replaces_decay=True, decoupled=decoupled)
        made.temporary = True
        undo.append(made.detach)
    return undo
