"""The settings of a record as one flat table, so that two records can be held against each other."""

from __future__ import annotations

import json
from typing import Any


def flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested settings by dotted name, each as JSON: ``{"groups.0.lr": "0.1"}``."""
    if isinstance(value, dict):
        parts = [flat(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [flat(v, f"{name}.{k}") for k, v in enumerate(value)]
    else:
        return {name: json.dumps(value, ensure_ascii=False)}
    return {k: v for part in parts for k, v in part.items()}
