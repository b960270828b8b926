"""Export a record to a file of another tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gradscope import checks
from gradscope.export.place import whole_or_nothing
from gradscope.export.source import Choice, opened
from gradscope.extras import missing_for
from gradscope.types import InputError


@dataclass(frozen=True)
class Format:
    """Format of an export.

    Attributes:
        suffix: of the file or folder.
        module: the module that has ``write(source, path)``.
    """

    suffix: str
    module: str


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        path: the file or folder asked for.
        beside: further tables, next to it.
        rows: rows of the record that were written.
    """

    path: Path
    beside: tuple[Path, ...]
    rows: int


FORMATS: Mapping[str, Format] = {
    "tensorboard": Format(".tensorboard", "gradscope.export.tensorboard"),
    "netcdf": Format(".nc", "gradscope.export.netcdf"),
    "zarr": Format(".zarr", "gradscope.export.zarr"),
    "parquet": Format(".parquet", "gradscope.export.parquet"),
    "csv": Format(".csv", "gradscope.export.csv"),
}


def export(run: Path, to: str, out: Path | None = None, *, force: bool = False, choice: Choice = Choice()) -> Exported:
    """Write the record ``run`` in the format ``to``.

    Rows are read and written in blocks, so that memory is bounded however long the record is. The output appears under
    its name when it is complete.

    Args:
        run: a record: finished, running or left by a killed process. It is only read.
        to: ``tensorboard`` (a log folder), ``netcdf``, ``zarr`` (a folder), ``parquet`` or ``csv``.
        out: where to; without it beside ``run``, under its name with another suffix.
        force: replace what an earlier export left there.
        choice: the variables, parameters and rows that are written; all of them by default.

    Returns:
        What was written.

    Raises:
        InputError: an unknown format, a record that cannot be read, something in the way, a disk that is full, or a
            package that is not installed.
        ModuleNotFoundError: a module is missing that no extra of gradscope brings.
    """
    checks.one_of(to, FORMATS, "--to")
    path = run.with_suffix(FORMATS[to].suffix) if out is None else out
    try:
        writer = import_module(FORMATS[to].module)
    except ModuleNotFoundError as error:
        if said := missing_for(f"--to {to}", error):
            raise InputError(said) from None
        raise
    with whole_or_nothing(path, run, force=force) as temporary, opened(run, choice) as source:
        writer.write(source, temporary)
        made = sorted(item.name for item in temporary.parent.iterdir())
        rows = source.rows
    return Exported(path, tuple(path.with_name(name) for name in made if name != path.name), rows)
