"""Schema of a record, from the one table of quantities: variables, coordinates, and the page that lists them."""

from __future__ import annotations

from gradscope.quantities import (
    ALL,
    BIN,
    GROUP,
    LOSS,
    MODULE,
    PARAMETER,
    QUANTITIES,
    STEP,
    UNIT,
    Quantity,
)

__all__ = ["BIN", "BY_NAME", "COORDINATES", "GROUP", "MODULE", "PARAMETER", "SCHEMA_VERSION", "STEP", "UNIT"]

SCHEMA_VERSION = 1

VARIABLES: tuple[Quantity, ...] = tuple(q for q in QUANTITIES if q.stored)

#: The dimensions with labels, in the order of the file. `group` is a dimension without labels.
COORDINATES: dict[str, str] = {
    STEP: "optimizer step, counted from 0, skipped ones included",
    PARAMETER: "parameter, by its name in the plain model",
    MODULE: "module, by its name in the plain model",
    BIN: "lower edge of a bin of sizes, a factor of 4 apart; 0: exact zeros; the next: all below the third",
    UNIT: "unit of a module (a channel, a neuron), as module:index",
}

BY_NAME = {variable.name: variable for variable in VARIABLES}


def scalar(name: str) -> Quantity:
    """Return the quantity of a scalar that `Recording.log` was given."""
    return LOSS if name == LOSS.name else Quantity(name, (STEP,), name)


def variable(name: str) -> Quantity:
    """Return the variable of this name; an unknown one is a logged scalar."""
    return BY_NAME.get(name) or scalar(name)


def table() -> str:
    """Write the variables as the Markdown table that stands in docs/file-format.md."""
    lines = ["| variable | dims | type | units | meaning | presets |", "|---|---|---|---|---|---|"]
    for v in VARIABLES:
        dims = ", ".join(f"`{dim}`" for dim in v.dims)
        presets = "all" if v.presets == ALL else ", ".join(v.presets)
        meaning = v.long_name.replace("|", "\\|")
        lines.append(f"| `{v.name}` | {dims} | {v.dtype} | {v.units} | {meaning} | {presets} |")
    lines += ["", "| coordinate | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in COORDINATES.items()]
    return "\n".join(lines)
