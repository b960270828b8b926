"""Tables of a record: one row a step, one column a number; see docs/decisions/0045."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

from gradscope.export.source import Source

#: Dimensions of a number in the main table, next to ``step``. What lies along others is a table of its own.
ACROSS = ("parameter", "module", "group")


def label(quantity: str, name: object) -> str:
    """Return the name of a column or tag: ``proportion/0.weight``, ``strength/0``."""
    return f"{quantity}/{name}"


def main_variables(dataset: xr.Dataset) -> list[str]:
    """List the variables of the main table: a number a step, or one for each parameter, module or group."""
    return [
        str(name)
        for name, v in dataset.data_vars.items()
        if v.dims == ("step",) or (len(v.dims) == 2 and v.dims[0] == "step" and v.dims[1] in ACROSS)
    ]


def main_blocks(source: Source) -> Iterator[pd.DataFrame]:
    """Yield the main table in blocks of rows: ``step``, then the scalars, then a column a quantity and name."""
    names = main_variables(source.dataset)
    names.sort(key=lambda name: source.dataset[name].ndim)
    for block in source.blocks(names):
        columns = {"step": block["step"].values}
        for name in names:
            columns.update(_columns(block[name]))
        yield pd.DataFrame(columns)


def _columns(variable: xr.DataArray) -> dict[str, np.ndarray]:
    quantity = str(variable.name)
    if variable.ndim == 1:
        return {quantity: variable.values}
    dim = variable.dims[1]
    names = variable[dim].values if dim in variable.coords else np.arange(variable.shape[1])
    values = np.asfortranarray(variable.values)
    return {label(quantity, name): values[:, k] for k, name in enumerate(names)}


def long_variables(dataset: xr.Dataset) -> list[str]:
    """List the variables with a table of their own: histograms, and the numbers of single units."""
    main = main_variables(dataset)
    return [str(name) for name, v in dataset.data_vars.items() if "step" in v.dims and name not in main]


def long_blocks(source: Source, name: str) -> Iterator[pd.DataFrame]:
    """Yield a variable in long form, the value under its own name; steps without a sample are left out."""
    for block in source.blocks([name]):
        variable = block[name].dropna("step", how="all")
        if variable.sizes["step"]:
            yield variable.drop_vars(set(variable.coords) - set(variable.dims)).to_dataframe().reset_index()


def small_tables(source: Source) -> dict[str, pd.DataFrame]:
    """Build the tables that do not grow with the steps: the parameters, the metrics of epochs, the events."""
    fixed = [name for name, v in source.dataset.variables.items() if v.dims == ("parameter",)]
    parameters = source.dataset[fixed].load().to_dataframe()
    tables = {"parameters": parameters, "epochs": source.epochs.to_dataframe(), "events": source.events.to_dataframe()}
    return {name: table.reset_index() for name, table in tables.items() if len(table) and len(table.columns)}
