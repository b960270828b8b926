"""Export to CSV: one row a step. What does not fit into that is in further files beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gradscope.export.place import companion
from gradscope.export.source import Source
from gradscope.export.tables import long_blocks, long_variables, main_blocks, small_tables


def write(source: Source, path: Path) -> None:
    """Write numbers with as many digits as it takes to read the same ones back; NaN is an empty field."""
    _write(main_blocks(source), path)
    for name in long_variables(source.dataset):
        _write(long_blocks(source, name), companion(path, name))
    for name, table in small_tables(source).items():
        _write([table], companion(path, name))


#: A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _inert(block: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before words of the record and names of columns that are formulas to a spreadsheet."""

    def quoted(value: Any) -> Any:
        return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value

    words = {name: block[name].map(quoted) for name in block.columns if block[name].dtype.kind not in "fiub"}
    return block.assign(**words).rename(columns=quoted)


def _write(blocks: Iterable[pd.DataFrame], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, block in enumerate(blocks):
            _inert(block).to_csv(file, index=False, header=number == 0)
