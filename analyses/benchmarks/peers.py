"""The same rows through other stores, each as its own users would write it: one flush a window."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.store.storage import Storage
from gradscope.store.writer import Writer

Rows = Mapping[str, NDArray[Any]]
Peer = Callable[[Path, Iterator[Rows]], None]
ONE_BLOCK = Storage(flush_rows=1)  # every block is a transaction


def gradscope(storage: Storage = ONE_BLOCK) -> Peer:
    """Ours: one durable transaction a window."""

    def write(path: Path, blocks: Iterator[Rows]) -> None:
        writer = None
        for block in blocks:
            if writer is None:
                count = max(v.shape[1] for v in block.values() if v.ndim == 2)
                writer = Writer(
                    path / "run.h5",
                    parameters=[f"p{i}" for i in range(count)],
                    modules=[],
                    groups=1,
                    static={"numel": np.ones(count), "penalised": np.ones(count), "group": np.zeros(count)},
                    attributes={"gradscope_version": "0", "penalty": "l2", "config": {"groups": [{}]}, "capture": {}},
                    storage=storage,
                )
            writer.append(block)
        assert writer is not None
        writer.close("finished")
        assert writer.problem is None, writer.problem

    return write


def zarr_(path: Path, blocks: Iterator[Rows]) -> None:
    """Zarr with its default compressor, one array a variable, chunks of one window."""
    import zarr

    root = zarr.open_group(path / "run.zarr", mode="w")
    arrays: dict[str, Any] = {}
    for block in blocks:
        for name, values in block.items():
            if name not in arrays:
                arrays[name] = root.create_array(
                    name, shape=(0, *values.shape[1:]), chunks=values.shape, dtype=values.dtype
                )
            array = arrays[name]
            start = array.shape[0]
            array.resize((start + len(values), *values.shape[1:]))
            array[start:] = values


def parquet(path: Path, blocks: Iterator[Rows]) -> None:
    """Parquet with zstd, a row group a window, one column a variable and parameter."""
    import pyarrow
    import pyarrow.parquet

    out = None
    for block in blocks:
        columns: dict[str, NDArray[Any]] = {}
        for name, values in block.items():
            flat = values.reshape(len(values), -1)
            columns |= {f"{name}/{i}": np.ascontiguousarray(flat[:, i]) for i in range(flat.shape[1])}
        table = pyarrow.table(columns)
        if out is None:
            out = pyarrow.parquet.ParquetWriter(path / "run.parquet", table.schema, compression="zstd")
        out.write_table(table)
    assert out is not None
    out.close()


def json_lines(path: Path, blocks: Iterator[Rows]) -> None:
    """One line a step, synced a window."""
    with (path / "run.jsonl").open("w") as file:
        for block in blocks:
            lists = {name: values.tolist() for name, values in block.items()}
            for i in range(len(block["step"])):
                file.write(json.dumps({name: values[i] for name, values in lists.items()}) + "\n")
            file.flush()
            os.fdatasync(file.fileno())


def tensorboard(path: Path, blocks: Iterator[Rows]) -> None:
    """TensorBoard scalars, one tag a variable and parameter."""
    from torch.utils.tensorboard import SummaryWriter

    out = SummaryWriter(str(path / "events"))
    for block in blocks:
        for i, step in enumerate(block["step"].tolist()):
            for name, values in block.items():
                for j, value in enumerate(np.atleast_1d(values[i])):
                    out.add_scalar(f"{name}/{j}", value, step)
        out.flush()
    out.close()


#: Name, writer, and the share of the rows it gets: TensorBoard is too slow for all of them.
PEERS: dict[str, tuple[Peer, float]] = {
    "gradscope, gzip": (gradscope(), 1.0),
    "gradscope, gzip, 4 digits": (gradscope(replace(ONE_BLOCK, digits=4)), 1.0),
    "gradscope, no filter": (gradscope(replace(ONE_BLOCK, compression=None)), 1.0),
    "Zarr": (zarr_, 1.0),
    "Parquet": (parquet, 1.0),
    "JSON lines": (json_lines, 0.25),
    "TensorBoard scalars": (tensorboard, 1 / 64),
}
