"""Check arguments. Each error names the value that was given and the one that was expected."""

from __future__ import annotations

import math
import operator
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from gradscope.plugins import plugged
from gradscope.types import InputError

T = TypeVar("T")


#: Packages whose frames lie between a warning and the line of its user.
BETWEEN = {"gradscope", "torch", "contextlib", "lightning", "lightning_fabric", "transformers", "accelerate"}


def users_line() -> int:
    """Return the ``stacklevel`` at which a warning points at the user's own line, through torch's hooks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    return level


def finite(value: float, name: str) -> float:
    """Check that a value is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; expected a number") from None
    if not math.isfinite(number):
        raise InputError(f"{name} is {number:g}; expected a finite number")
    return number


def strength(value: float, name: str = "strength") -> float:
    """Check that a regularization strength is finite and not negative."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; expected a number, for example 0.001") from None
    if not math.isfinite(number) or number < 0:
        raise InputError(f"{name} is {number:g}; expected a finite number of at least 0")
    return number


def strength_range(low: float, high: float) -> tuple[float, float]:
    """Check a range of strengths to search: 0 < low < high, both finite."""
    low, high = strength(low, "low"), strength(high, "high")
    if low == 0:
        raise InputError("low is 0; the search is over the logarithm of the strength, so give a low above 0")
    if not low < high:
        raise InputError(f"low is {low:g} and high is {high:g}; expected low < high")
    return low, high


def positive_int(value: int, name: str) -> int:
    """Check that a value is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")
    return number


def whole_number(value: int, name: str) -> int:
    """Check that a value of whatever type is a whole number of at least 0."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**31:
        raise InputError(f"{name} is {value!r}; expected a whole number, counted from 0")
    return number


def absolute_path(path: str | os.PathLike[str], name: str) -> Path:
    """Resolve a path as it is meant now, whatever folder the process goes to later."""
    if not isinstance(path, str | Path | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"{name} is {path!r}; expected a path, such as 'run.h5'")
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        raise InputError(f"{name} is {str(path)!r}, and the folder of this process is gone; give all of it") from None


#: ``s3://bucket/run.h5``, also as `Path` writes it: ``s3:/bucket/run.h5``.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")


def url_of(path: object) -> str | None:
    """Return the URL that a path stands for; None for a path of this machine, and for whatever there is here."""
    found = _URL.match(str(path))
    return None if found is None or Path(str(path)).exists() else f"{found[1]}://{str(path)[found.end() :]}"


def on_this_machine(path: object, what: str, such: str = "run.h5") -> None:
    """Raise `InputError` for a URL where only a file of this machine will do: it would be waited for, or made here."""
    if (url := url_of(path)) is not None:
        raise InputError(f"{url} is not on this machine, where {what}; expected a path such as {such}")


def optional_count(value: int | None, name: str) -> int | None:
    """Check that a value is None, or a whole number of at least 1."""
    return None if value is None else positive_int(value, name)


def instance(value: T, kind: type[T], name: str) -> T:
    """Check that a value is of this class."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {value!r}; expected a {kind.__name__}")
    return value


def one_of(value: str, known: Collection[str], name: str) -> str:
    """Check that a value is one of a few words."""
    if value not in known:
        raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    return value


def penalty_word(text: str) -> str:
    """Check the name of a penalty and return it in lower case, such as l1, l2, l1l2:0.3,0.7, l3 or group:filter."""
    word = text.strip().lower()
    number = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    power = re.fullmatch(rf"l({number})", word)
    if word == "l0":
        raise InputError("l0 counts weights and has no gradient, so it cannot be applied; take l1 for exact zeros")
    if re.fullmatch(r"term:[A-Za-z_][A-Za-z0-9_]*", text.strip()):  # a term of the script's own, by its name
        return text.strip()
    known = rf"l1l2(?::{number},{number})?|linf|group:(?:filter|neuron|input)"
    if re.fullmatch(known, word) or (power and 1 <= float(power[1]) < math.inf):
        return word
    if text.strip() in plugged("penalties"):
        return text.strip()
    raise InputError(
        f"penalty is {text!r}; expected one of l1, l2, l1l2, linf, or lP with P ≥ 1 such as l3, l1l2:0.3,0.7, "
        f"group:filter, group:neuron, group:input, term:NAME"
    )


def output_folder(path: str | os.PathLike[str], name: str) -> Path:
    """Make the folder of this machine that results go to, and check that it can be written to."""
    on_this_machine(path, "results are written", "runs")
    return writable_folder(absolute_path(path, name))


def writable_folder(folder: Path) -> Path:
    """Make a folder if it is not there, and check that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is not a folder; give the path of a folder") from None
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    # A probe file, not os.access: root passes os.access on a read-only file system.
    probe = folder / f".gradscope-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder}: {error.strerror}") from None
    return folder
