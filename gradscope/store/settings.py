"""Settings of a record as one flat table, so that two records can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gradscope.store.record import Record


def flat(value: Any, name: str = "") -> dict[str, str]:
    """Flatten nested settings by dotted name, each value as JSON: ``{"groups.0.lr": "0.1"}``."""
    if isinstance(value, dict):
        parts = [flat(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [flat(v, f"{name}.{k}") for k, v in enumerate(value)]
    else:
        return {name: json.dumps(value, ensure_ascii=False)}
    return {k: v for part in parts for k, v in part.items()}


def settings_of(record: Record) -> dict[str, str]:
    """Return everything that a record says of how it was made: ``groups.0.lr``, ``capture.environment.…``."""
    held = record.attributes
    plain: dict[str, str] = {n: str(held[n]) for n in ("penalty", "horizon", "baseline_loss") if n in held}
    return {**plain, **flat(record.config), **flat(record.capture, "capture")}


def table(settings: Sequence[Mapping[str, str]]) -> dict[str, tuple[str | None, ...]]:
    """Tabulate by name, one value a record; None where a record has no such setting."""
    names = dict.fromkeys(name for values in settings for name in values)
    return {name: tuple(values.get(name) for values in settings) for name in names}


def differing(values: Mapping[str, tuple[str | None, ...]]) -> dict[str, tuple[str | None, ...]]:
    """Select the settings that are not the same in all records."""
    return {name: row for name, row in values.items() if len(set(row)) > 1}
