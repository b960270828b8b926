"""Make lazy arrays whose late errors are as plain as those at opening: which file, which variable, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from gradscope.store import chunks, schema
from gradscope.store.record_source import opened
from gradscope.store.regular import DAMAGE, damaged
from gradscope.store.snapshot import Overlay


def guarded(path: Path, dataset: xr.Dataset, source: Path | Overlay) -> xr.Dataset:
    """Return the same lazy dataset, read from ``source``; a part of it that cannot be read raises `InputError`."""

    def lazily(name: str, variable: xr.Variable) -> indexing.LazilyIndexedArray:
        return indexing.LazilyIndexedArray(_Guarded(path, name, variable, source))

    lazy = {
        name: (variable.dims, lazily(str(name), variable), _shown(variable.attrs))
        for name, variable in dataset.variables.items()
        if name not in dataset.indexes
    }
    made = dataset.assign({name: xr.Variable(*parts) for name, parts in lazy.items()})
    for name in lazy:
        made[name].encoding = dataset[name].encoding
    made = made.set_coords([name for name in lazy if name in dataset.coords])
    made.set_close(dataset._close)
    return made


def _shown(attributes: dict[Any, Any]) -> dict[Any, Any]:
    """Return the attributes without the one that only says how things are stored."""
    return {name: value for name, value in attributes.items() if name != "_FillValue"}


class _Guarded(BackendArray):
    """One variable as a backend array of xarray."""

    def __init__(self, path: Path, name: str, variable: xr.Variable, source: Path | Overlay) -> None:
        self._path, self._name, self._variable, self._source = path, name, variable, source
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            if self._variable.dims[:1] == (schema.STEP,) and self.dtype.kind in "fiub":
                return self._rows(key)
            return np.asarray(self._variable[key].values)
        except DAMAGE as error:
            raise damaged(self._path, error, self._name) from None

    def _rows(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read rows of a growing variable, past HDF5."""
        # Opened here, and closed: an object of h5py that outlives its file can bring the process down.
        with opened(self._source) as view, h5py.File(view, "r") as file:
            found = chunks.rows(view, file[self._name], key)
        return found if found.dtype == self.dtype else found.astype(self.dtype)
