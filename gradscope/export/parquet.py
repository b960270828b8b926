"""Export to Parquet: one row a step, with the types of the record. Further tables are in files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradscope.export.place import companion
from gradscope.export.source import Source
from gradscope.export.tables import long_blocks, long_variables, main_blocks, small_tables


def write(source: Source, path: Path) -> None:
    """Write the tables; attributes of the record are in the metadata of the file, as ``gradscope.NAME``."""
    attributes = {f"gradscope.{name}": str(value) for name, value in source.dataset.attrs.items()}
    _write(main_blocks(source), path, attributes)
    for name in long_variables(source.dataset):
        _write(long_blocks(source, name), companion(path, name))
    for name, table in small_tables(source).items():
        _write([table], companion(path, name))


def _write(blocks: Iterable[pd.DataFrame], path: Path, attributes: Mapping[str, str] | None = None) -> None:
    writer = None
    try:
        for block in blocks:
            table = pa.Table.from_pandas(block, preserve_index=False)
            if writer is None:
                table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(attributes or {})})
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
