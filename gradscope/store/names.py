"""Turn names that a loop gives its numbers into names that a file can hold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from gradscope import checks
from gradscope.store import schema
from gradscope.types import InputError

_RESERVED = {*schema.BY_NAME, *schema.COORDINATES, "epochs", "events"} - {"loss"}


class Names:
    """Stored names by given ones: "train/acc" becomes "train_acc".

    Two given names never share a column: the second one gets a number, and a warning says so.

    Args:
        call: the method that takes them, for messages.
    """

    def __init__(self, call: str) -> None:
        self._call = call
        self._stored: dict[str, str] = {}
        self._plain: set[str] = set()  # stored as they are

    def stored(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values by stored names.

        Args:
            values: by given names.

        Returns:
            The same values.

        Raises:
            InputError: no file can hold a name.
        """  # noqa: DOC502 - raised by what it calls
        if values.keys() <= self._plain:
            return values
        return {self._stored.get(name) or self._new(name): value for name, value in values.items()}

    def _new(self, name: str) -> str:
        stored = name.replace("/", "_")
        if stored in _RESERVED:
            raise InputError(f"{self._call}({name}=…): the record uses that name itself; choose another one")
        if not stored or stored == "." or stored != stored.strip() or not stored.isprintable():
            raise InputError(f"{self._call} got the name {name!r}; expected a word such as accuracy")
        givers = {mine: given for given, mine in self._stored.items()}
        if stored in givers:
            first, number = givers[stored], 2
            while f"{stored}_{number}" in givers:
                number += 1
            stored = f"{stored}_{number}"
            text = f"{self._call} got {first!r} and {name!r}, one name in a file: {name!r} is recorded as {stored!r}"
            warnings.warn(text, stacklevel=checks.users_line())
        self._stored[name] = stored
        if stored == name:
            self._plain.add(name)
        return stored
