"""Export to netCDF-4, which xarray, netCDF4, R, Julia and MATLAB open as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5netcdf

from gradscope.export.source import Source


def write(source: Source, path: Path) -> None:
    """Write variables, units and attributes as in the record; ``epochs`` and ``events`` are groups.

    Bools become bytes with the attribute ``dtype``, which xarray reads back as bools: netCDF has none.
    """
    blocks = source.blocks()
    first = next(blocks).drop_encoding()
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    chunk = min(first.sizes["step"], 1024)
    encoding = {
        str(name): {**packed, "chunksizes": (chunk, *v.shape[1:])}
        for name, v in first.data_vars.items()
        if v.dims[:1] == ("step",)
    }
    first.to_netcdf(path, engine="h5netcdf", unlimited_dims=["step"], encoding=encoding)
    with h5netcdf.File(path, "a") as file:
        at = first.sizes["step"]
        file.resize_dimension("step", source.rows)
        for block in blocks:
            for name, v in block.variables.items():
                if v.dims[:1] == ("step",):
                    file.variables[name][at : at + len(v)] = v.values
            at += block.sizes["step"]
    for group, table in (("epochs", source.epochs), ("events", source.events)):
        table.drop_encoding().to_netcdf(path, engine="h5netcdf", group=group, mode="a")
