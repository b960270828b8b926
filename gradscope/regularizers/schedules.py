"""The text form of every schedule and controller: ``parse_schedule`` and ``.text`` are inverse to each other."""

from __future__ import annotations

import re
from collections.abc import Callable

from gradscope.regularizers.constrained import CPR
from gradscope.regularizers.controllers import AdvanceL2, AutoL2
from gradscope.regularizers.coupled import SCHEMES, Ivanov, Taper
from gradscope.regularizers.schedule import Constant, Schedule, Times
from gradscope.regularizers.timed import Cyclic, Delayed, Lasting, Ramp, StrongFirst, Table
from gradscope.types import InputError

EXAMPLES = (
    "constant",
    "delayed:5",
    "delayed:2000steps",
    "delayed:auto",
    "ramp:5",
    "ramp:2000steps",
    "strong:50",
    "cyclic:10x2",
    "cyclic:500steps",
    "table:0=1,100=8,150=16",
    "table:0=0,2000=1steps",
    "taper:sch01",
    "taper:0.5",
    "ivanov:300",
    "ivanov:20:l2",
    "autol2",
    "autol2:5%",
    "advancel2",
    "advancel2:10%,every=20,ceiling=1",
    "cpr:500steps",
    "cpr:inflection",
    "delayed:5*taper:sch02",
)

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"


def parse_schedule(text: str, strength: float | None = None) -> Schedule:
    """Parse the text of a schedule, such as ``delayed:5``, ``taper:sch01`` or a product ``delayed:5*taper:sch02``.

    Args:
        text: as ``Schedule.text`` writes it.
        strength: λ; without it 1, and 0.1 for controllers.

    Returns:
        The schedule.

    Raises:
        InputError: the text describes no schedule; the message lists examples.

    Examples:
        >>> parse_schedule("delayed:2000steps", 0.01).at(1999), parse_schedule("delayed:2000steps", 0.01).at(2000)
        (0.0, 0.01)
    """  # noqa: DOC502 - raised by what it calls
    first, *others = text.strip().lower().split("*")
    schedule = _parse(first, text, strength)
    for other in others:
        schedule = Times(schedule, _parse(other, text, 1.0))
    return schedule


def _parse(part: str, text: str, strength: float | None) -> Schedule:
    word, _, arguments = part.partition(":")
    readers: dict[str, Callable[[str, float | None], Schedule | None]] = {
        "constant": _constant,
        "delayed": _delayed,
        "ramp": lambda a, s: _lasting(Ramp, a, s),
        "strong": lambda a, s: _lasting(StrongFirst, a, s),
        "cyclic": _cyclic,
        "table": _table,
        "taper": _taper,
        "ivanov": _ivanov,
        "autol2": lambda a, s: _controller(AutoL2, a, s),
        "advancel2": lambda a, s: _controller(AdvanceL2, a, s),
        "cpr": _cpr,
    }
    reader = readers.get(word)
    found = reader(arguments, strength) if reader is not None and bool(arguments) == (":" in part) else None
    if found is None:
        raise InputError(f"schedule is {text!r}; expected one such as {', '.join(EXAMPLES)}")
    return found


def _constant(arguments: str, strength: float | None) -> Schedule | None:
    return None if arguments else Constant(_or_one(strength))


def _delayed(arguments: str, strength: float | None) -> Schedule | None:
    return Delayed(_or_one(strength), "auto") if arguments == "auto" else _lasting(Delayed, arguments, strength)


def _lasting(kind: type[Lasting], arguments: str, strength: float | None) -> Schedule | None:
    match = re.fullmatch(rf"({_NUMBER})(steps?|epochs?)?", arguments)
    if not match:
        return None
    if (match[2] or "").startswith("step"):
        return kind(_or_one(strength), steps=_whole(match[1], arguments))
    return kind(_or_one(strength), epochs=float(match[1]))


def _cyclic(arguments: str, strength: float | None) -> Schedule | None:
    match = re.fullmatch(rf"({_NUMBER})(steps?|epochs?)?(?:x({_NUMBER}))?", arguments)
    if not match:
        return None
    times = float(match[3] or 1)
    if (match[2] or "").startswith("step"):
        return Cyclic(_or_one(strength), steps=_whole(match[1], arguments), times=times)
    return Cyclic(_or_one(strength), epochs=float(match[1]), times=times)


def _table(arguments: str, strength: float | None) -> Schedule | None:
    row = rf"{_NUMBER}={_NUMBER}"
    match = re.fullmatch(rf"({row}(?:,{row})*)(steps?|epochs?)?", arguments)
    if not match:
        return None
    rows = [entry.split("=") for entry in match[1].split(",")]
    if (match[2] or "").startswith("step"):
        return Table(_or_one(strength), steps={_whole(position, arguments): float(f) for position, f in rows})
    return Table(_or_one(strength), epochs={float(position): float(factor) for position, factor in rows})


def _taper(arguments: str, strength: float | None) -> Schedule | None:
    if arguments in SCHEMES:
        return Taper(_or_one(strength), arguments)
    match = re.fullmatch(rf"({_NUMBER})(?::({_NUMBER}))?", arguments)
    return Taper(_or_one(strength), float(match[1]), float(match[2] or 16)) if match else None


def _ivanov(arguments: str, strength: float | None) -> Schedule | None:
    match = re.fullmatch(rf"({_NUMBER})(?::(l1|l2))?", arguments)
    return Ivanov(_or_one(strength), float(match[1]), match[2] or "l1") if match else None


def _controller(kind: type[AutoL2] | type[AdvanceL2], arguments: str, strength: float | None) -> Schedule | None:
    known = ("every", "decay", "cooldown") + (("ceiling",) if kind is AdvanceL2 else ())
    options: dict[str, float] = {}
    for option in arguments.split(",") if arguments else ():
        if match := re.fullmatch(rf"({_NUMBER})%", option):
            options["threshold"] = float(match[1])
        elif (match := re.fullmatch(rf"(\w+)=({_NUMBER})", option)) and match[1] in known:
            options[match[1]] = _whole(match[2], option) if match[1] == "every" else float(match[2])
        else:
            return None
    return kind(0.1 if strength is None else strength, **options)  # type: ignore[arg-type]


def _cpr(arguments: str, strength: float | None) -> Schedule | None:
    if arguments == "inflection":
        return CPR(_or_one(strength))
    match = re.fullmatch(r"(\d+)steps?", arguments)
    return CPR(_or_one(strength), warm_start=int(match[1])) if match else None


def _or_one(strength: float | None) -> float:
    return 1.0 if strength is None else strength


def _whole(number: str, text: str) -> int:
    if not number.isdigit():
        raise InputError(f"schedule holds {text!r}; a number of steps is a whole number")
    return int(number)
