"""Check what a record asks of its reader: a file from elsewhere may claim anything, such as sizes, links, types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gradscope.store import bounds, schema
from gradscope.store.bounds import View
from gradscope.store.layout import GROUP_VARIABLE
from gradscope.types import InputError

#: The two tables beside the rows, and the columns that they cannot be without.
GROUPS = {"events": ("event", "step", "kind", "text"), "epochs": ("epoch",)}
STATUS = ("running", "finished", "failed")
_ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "gradscope_version": (str,), "penalty": (str,), "status": (str,), "schema_version": (int,), "rows": (int,),
    "baseline_loss": (float, int), "horizon": (int,),
}  # fmt: skip


def refuse_hostile(path: Path, file: h5py.File, view: View) -> None:
    """Check that everything is what a writer of ours makes, and that nothing claims more than it can hold.

    Args:
        path: of the record.
        file: the open record.
        view: its bytes.

    Raises:
        InputError: something is not.
    """  # noqa: DOC501, DOC502 - made by what it calls
    try:
        texts = bounds.check_attributes(file, "it")
        total = 0
        for group in (file, *(_group(path, file, name) for name in GROUPS if name in file)):
            check_count(group)
            for name in group:
                item = member(path, group, name)
                if not isinstance(item, h5py.Group):
                    check_array(path, item, item.name[1:], view)
                    total += bounds.claimed(item)
                elif group is not file or name not in GROUPS:
                    raise _wrong(path, f"there is a group {item.name}")
                texts += bounds.check_attributes(item, item.name)
                if texts > bounds.MOST_TEXT:
                    raise _wrong(path, "its attributes are too long")
        bounds.check_claims(total, view.held)
        _check_meaning(path, file)
        bounds.check_rows(len(file[schema.STEP]), view.held)
        _check_attributes(path, file)
    except bounds.ClaimError as error:
        raise _wrong(path, str(error)) from None


def check_count(group: h5py.Group) -> None:
    """Check that a group has no more members than are read.

    Args:
        group: of the record.

    Raises:
        ClaimError: it has.
    """
    if len(group) > bounds.MOST_LINKS:
        raise bounds.ClaimError(f"{group.name} has {len(group)} members")


def member(path: Path, group: h5py.Group, name: str) -> Any:
    """Return what a group holds itself; soft and external links are refused: they lead in circles or elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise _wrong(path, f"{group.name.rstrip('/')}/{name} is a link to elsewhere")
    return group[name]


def _group(path: Path, file: h5py.File, name: str) -> h5py.Group:
    found = member(path, file, name)
    if not isinstance(found, h5py.Group):
        raise _wrong(path, f"it has no group {name!r}")
    return found


def check_array(path: Path, item: object, name: str, view: View) -> None:
    """Check that an item is an array of numbers or texts, and claims no more bytes than there are.

    Args:
        path: of the record.
        item: of the file.
        name: of the item.
        view: the bytes of the record.

    Raises:
        InputError: it is no such array.
        ClaimError: it claims more.
    """  # noqa: DOC501, DOC502 - made or raised by what it calls
    if not isinstance(item, h5py.Dataset):
        raise _wrong(path, f"{name} is not an array")
    if not isinstance(item.id.get_type(), bounds.PLAIN):
        raise _wrong(path, f"{name} holds neither numbers nor texts")
    if item.external or item.is_virtual:
        raise _wrong(path, f"{name} is stored outside of the file")
    if item.ndim > bounds.MOST_AXES:
        raise _wrong(path, f"{name} has {item.ndim} dimensions")
    if item.dtype.kind == "O" and h5py.check_string_dtype(item.dtype) is not None:
        bounds.check_texts(item, name, view)
        return
    if item.dtype.kind not in "fiub":
        raise _wrong(path, f"{name} has the type {item.dtype}")
    bounds.check_chunk(item, name, view.held)
    if name == schema.STEP or "/" in name or item.maxshape[:1] != (None,):
        bounds.check_small_chunks(item, name)
    bounds.check_claims(bounds.claimed(item) if item.maxshape[:1] != (None,) else 0, view.held)


def _check_meaning(path: Path, file: h5py.File) -> None:
    """Check what readers take for granted of the arrays: which there are, along what, as long as each other."""
    fixed = ("numel", "penalised", GROUP_VARIABLE)
    for name in (schema.STEP, schema.PARAMETER, schema.GROUP, *fixed):
        if name not in file or not isinstance(file[name], h5py.Dataset) or file[name].ndim != 1:
            raise _wrong(path, f"it has no list {name!r}")
    for name, columns in GROUPS.items():
        if name not in file or not isinstance(file[name], h5py.Group):
            raise _wrong(path, f"it has no group {name!r}")
        for column in columns:
            if column not in file[name]:
                raise _wrong(path, f"its {name} have no column {column!r}")
        shapes = {item.shape for item in file[name].values()}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise _wrong(path, f"the columns of its {name} differ in length")
    if file[schema.STEP].dtype.kind != "i" or file[schema.PARAMETER].dtype.kind != "O":
        raise _wrong(path, "step or parameter has a wrong type")
    rows, parameters = len(file[schema.STEP]), len(file[schema.PARAMETER])
    for name, item in file.items():
        if isinstance(item, h5py.Dataset) and item.maxshape[:1] == (None,) and len(item) != rows:
            raise _wrong(path, f"{name} has {len(item)} rows, step has {rows}")
        known = schema.BY_NAME.get(name)
        if known is not None and name != schema.GROUP and item.ndim != len(known.dims):
            raise _wrong(path, f"{name} has {item.ndim} dimensions, expected {len(known.dims)}")
        if known is not None and item.dtype.kind not in "fiub":
            raise _wrong(path, f"{name} holds no numbers")
    for name in fixed:
        if file[name].shape != (parameters,):
            raise _wrong(path, f"{name} has the shape {file[name].shape}, there are {parameters} parameters")
    for name, (width, expected) in _widths(file).items():
        if width != expected:
            raise _wrong(path, f"{name} has the width {width}, expected {expected}")


def _check_attributes(path: Path, file: h5py.File) -> None:
    """Check what readers take for granted of the root attributes, and of the groups in ``config``."""
    for name, kinds in _ATTRIBUTES.items():
        value = file.attrs.get(name, kinds[0]())
        if isinstance(value, np.generic):
            value = value.item()
        if not isinstance(value, kinds):
            raise _wrong(path, f"its {name} is {str(value)[:40]!r}")
    if file.attrs["rows"] < 0:
        raise _wrong(path, f"it claims {file.attrs['rows']} rows")
    found = {name: bounds.parsed(file.attrs[name], name) for name in ("config", "capture")}
    groups = found["config"].get("groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise _wrong(path, "its config holds no list of groups")
    if not all(isinstance(group.get("momentum", 0.0), int | float) for group in groups):
        raise _wrong(path, "its config holds a momentum that is no number")
    shapes = found["config"].get("shapes", {})
    if not isinstance(shapes, dict) or not all(isinstance(shape, list) for shape in shapes.values()):
        raise _wrong(path, "its config holds no table of shapes")
    if any(not isinstance(n, int) for shape in shapes.values() for n in shape):
        raise _wrong(path, "its config holds a shape of no whole numbers")
    penalties = found["capture"].get("penalties", [])
    if not isinstance(penalties, list) or not all(isinstance(one, dict) for one in penalties):
        raise _wrong(path, "its capture holds no list of penalties")
    if len(groups) != len(file[schema.GROUP]):
        raise _wrong(path, f"its config holds {len(groups)} groups, there are {len(file[schema.GROUP])}")
    member = file[GROUP_VARIABLE][:]
    if member.dtype.kind != "i" or (len(member) and not (member.min() >= -1 and member.max() < len(groups))):
        raise _wrong(path, "a parameter belongs to a group that is not there")
    if file.attrs["status"] not in STATUS:
        raise _wrong(path, f"its status is {file.attrs['status']!r}, expected one of {', '.join(STATUS)}")


def _widths(file: h5py.File) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    found = {}
    for variable in schema.VARIABLES:
        name = variable.name
        if variable.dims[0] == schema.STEP and len(variable.dims) > 1 and name in file:
            sizes = tuple(len(file[dim]) if dim in file else -1 for dim in variable.dims[1:])
            found[name] = (file[name].shape[1:], sizes)
    return found


def _wrong(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged or no gradscope record: {what}; see what can be saved: gradscope recover")
