"""Load what other packages add: rules, penalties and sinks, by the entry points that they declare.

    [project.entry-points."gradscope.rules"]
    quiet_head = "mypackage.rules:QUIET_HEAD"

The name is how it is called here; what it points at is a `Rule`, a `Penalty`, or what makes one without arguments.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any


@cache
def plugged(kind: str) -> dict[str, Any]:
    """Load what is declared under ``gradscope.<kind>``, by name; warn of what cannot be loaded, and leave it out."""
    from importlib.metadata import entry_points  # here: `--help` need not load it

    found = {}
    for point in entry_points(group=f"gradscope.{kind}"):
        try:
            found[point.name] = point.load()
        except Exception as error:  # somebody else's package is no reason to end a training
            text = f"the plug-in {point.name} of gradscope.{kind} cannot be loaded: {type(error).__name__}: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    return found
