"""Export to Zarr, a folder of chunks that many processes and object stores read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import zarr

from gradscope.export.source import Source

#: Zarr 3 has no agreed type for text yet; version 2 of the format has one, and every reader of 3 opens it.
FORMAT: Final = 2


def write(source: Source, path: Path) -> None:
    """Write variables, units and attributes as in the record; ``epochs`` and ``events`` are groups."""
    chunk = min(source.block_rows, 1024)
    for number, block in enumerate(source.blocks()):
        rows = block.drop_encoding()
        if number == 0:
            along = [name for name, v in rows.variables.items() if "step" in v.dims]
            encoding = {str(name): {"chunks": (chunk, *rows[name].shape[1:])} for name in along}
            rows.to_zarr(path, mode="w", encoding=encoding, zarr_format=FORMAT, consolidated=False)
        else:
            fixed = [name for name, v in rows.variables.items() if "step" not in v.dims]
            rows.drop_vars(fixed).to_zarr(path, append_dim="step", zarr_format=FORMAT, consolidated=False)
    for group, table in (("epochs", source.epochs), ("events", source.events)):
        table.drop_encoding().to_zarr(path, group=group, mode="a", zarr_format=FORMAT, consolidated=False)
    zarr.consolidate_metadata(path, zarr_format=FORMAT)
