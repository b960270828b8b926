"""Settings of how a record is written: how soon a row is safe, how small it becomes, where a copy goes."""

from __future__ import annotations

from dataclasses import dataclass

import h5py

from gradscope import checks
from gradscope.types import InputError

_FILTERS = {"gzip": h5py.h5z.FILTER_DEFLATE, "lzf": h5py.h5z.FILTER_LZF}
#: A float32 has 24 bits of mantissa: seven decimal digits are more than it holds.
MOST_DIGITS = 6
#: Registered filters have numbers from here on: smaller ones are HDF5's own, and to h5py up to 9 a level of gzip.
FIRST_REGISTERED = 256


@dataclass(frozen=True)
class Storage:
    """Settings of how `record` writes rows to the disk.

    Args:
        flush_rows: recorded rows after which a flush comes at the latest; each is one durable transaction.
        flush_seconds: seconds after which a recorded row is durable at the latest.
        compression: ``gzip``, ``lzf``, None, or the number of a filter that is registered with HDF5, which whoever
            reads the file has to have as well. Entries are shuffled by bytes first.
        digits: significant decimal digits, 1 to 6, that float32 variables are rounded to; None: none are lost. Their
            attribute ``largest_relative_error`` holds what that costs, at most ½·10^−digits.
        copy_to: where the finished record is copied when the recording is closed: a URL that fsspec knows
            (``s3://bucket/runs/``; in a folder the copy has the record's name). Copying that fails is a warning.

    Raises:
        InputError: one of them cannot be used.
    """

    flush_rows: int = 1024
    flush_seconds: float = 1.0
    compression: str | int | None = "gzip"
    digits: int | None = None
    copy_to: str | None = None

    def __post_init__(self) -> None:
        checks.positive_int(self.flush_rows, "flush_rows")
        if checks.finite(self.flush_seconds, "flush_seconds") <= 0:
            raise InputError(f"flush_seconds is {self.flush_seconds:g}; expected more than 0")
        if self.compression is not None and not _available(self.compression):
            raise InputError(
                f"compression is {self.compression!r}; expected gzip, lzf, None, or the number of a filter that is "
                "registered with HDF5 here"
            )
        if (checks.optional_count(self.digits, "digits") or 0) > MOST_DIGITS:
            raise InputError(f"digits is {self.digits}; expected at most {MOST_DIGITS}, or None to keep all of them")
        if self.copy_to is not None and (not isinstance(self.copy_to, str) or not self.copy_to):
            raise InputError(f"copy_to is {self.copy_to!r}; expected a URL or a path, or None for no copy")


def _available(name: str | int) -> bool:
    number = _FILTERS.get(name) if isinstance(name, str) else name
    if name not in _FILTERS and not (type(number) is int and number >= FIRST_REGISTERED):
        return False
    return bool(h5py.h5z.filter_avail(number))


DEFAULT = Storage()
