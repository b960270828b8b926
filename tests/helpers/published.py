"""The JSON that commands print, held against the schemas in docs/schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from tests.helpers.paths import ROOT

FOLDER = ROOT / "docs" / "schemas"
#: Commands whose JSON is that of a figure or of a view, and is described in words alone.
WITHOUT = ("demo", "plot", "watch")


def schema(command: str) -> dict[str, Any]:
    """The published one of a command."""
    return dict(json.loads((FOLDER / f"{command}.json").read_text()))


def conforms(command: str, printed: dict[str, Any]) -> dict[str, Any]:
    """The same object; raises where it is not what is published."""
    if command not in WITHOUT:
        jsonschema.validate(printed, schema(command), jsonschema.Draft202012Validator)
    return printed
