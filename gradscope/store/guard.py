"""Lazy arrays whose late errors are told as plainly as those at opening: which file, which variable, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from gradscope.store import bulk
from gradscope.types import InputError

#: What HDF5 and those who read it raise for damaged files.
DAMAGE = (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError, MemoryError)


def damaged(path: Any, error: BaseException, name: str = "") -> InputError:
    """The one line that says so."""
    said = " ".join((str(error) or type(error).__name__).split())[:200]
    where = f" at {name}" if name else ""
    return InputError(f"{path} is a damaged record{where}: {said}; see what can be saved: gradscope recover {path}")


def guarded(path: Path, dataset: xr.Dataset, in_bulk: bool = False) -> xr.Dataset:
    """The same lazy dataset; a part of it that cannot be read raises `InputError`.

    ``in_bulk``: nobody writes the file, and many rows may be read past HDF5.
    """

    def lazily(name: str, variable: xr.Variable) -> indexing.LazilyIndexedArray:
        return indexing.LazilyIndexedArray(_Guarded(path, name, variable, in_bulk))

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
    """The attributes without the one that only says how things are stored."""
    return {name: value for name, value in attributes.items() if name != "_FillValue"}


class _Guarded(BackendArray):
    """One variable behind xarray's own door for backends."""

    def __init__(self, path: Path, name: str, variable: xr.Variable, in_bulk: bool) -> None:
        self._path, self._name, self._variable, self._in_bulk = path, name, variable, in_bulk
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        try:
            many = self._many(key)
            return np.asarray(self._variable[key].values) if many is None else many
        except DAMAGE as error:
            raise damaged(self._path, error, self._name) from None

    def _many(self, key: tuple[Any, ...]) -> NDArray[Any] | None:
        """Whole rows, where they are many and can be read past HDF5."""
        if not self._in_bulk or not all(isinstance(part, slice) for part in key):
            return None
        (start, stop, step), *rest = (part.indices(n) for part, n in zip(key, self.shape, strict=True))
        whole = all(found == (0, n, 1) for found, n in zip(rest, self.shape[1:], strict=True))
        return bulk.rows(self._path, self._name, start, stop) if step == 1 and whole else None
