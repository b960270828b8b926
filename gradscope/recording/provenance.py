"""Describe where a record comes from: settings, shapes, versions, and what each number means in this run."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: What the gradients are where several ranks train a model that no wrapper is seen around.
BY_HAND = (
    "as step() found it: DistributedDataParallel is not around this model, so that whatever the loop does between "
    "backward() and step(), averaging over ranks or clipping, is in it; clip_coefficient is NaN"
)


def configuration(
    parameters: Mapping[str, Tensor], groups: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the record's ``config``: all that two runs of one search have to share, the seed, and the revision."""
    first = next(iter(parameters.values()))
    return {
        "groups": list(groups),
        "shapes": {name: list(p.shape) for name, p in parameters.items()},
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": first.device.type,
        "versions": {
            "gradscope": _version("gradscope"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "git_revision": git_revision(),
        **settings,
    }


def capture(
    parameters: Mapping[str, Tensor],
    unseen: Sequence[str],
    penalties: Sequence[dict[str, Any]],
    every: Mapping[str, str],
    overridden: Mapping[str, str],
) -> dict[str, Any]:
    """Make the record's ``capture``: what each number means here, and what was not seen and why."""
    return {
        "loss_gradient": (
            "as the last backward pass before step() left it: accumulated, reduced over ranks, unscaled, not clipped; "
            "in the steps counted by measured_at_step, as step() found it, and their clip_coefficient is NaN"
        ),
        "skipped": "attempted steps that a GradScaler skipped",
        "penalties": list(penalties),
        "every": dict(every),
        "frozen": [name for name, p in parameters.items() if not p.requires_grad],
        "not_recorded": dict.fromkeys(unseen, "in none of the optimizers when the recording began"),
        "environment": dict(overridden),
    }


def group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters of a parameter group that a file can hold."""
    kept = {name: _plain(value) for name, value in group.items() if name not in ("params", "param_names")}
    if not isinstance(kept.get("momentum", 0.0), int | float):
        del kept["momentum"]  # of a kind of its own, which whoever reads the record would take for a factor
    return {name: value for name, value in kept.items() if value is not None}


def _plain(value: Any) -> Any:
    """Convert a setting to what JSON holds, None for what it does not."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else None
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, tuple | list):
        plain = [_plain(part) for part in value]
        return None if None in plain else plain
    return value if isinstance(value, str | int | float) else None


def git_revision() -> str | None:
    """Return the revision of the repository that the running script lies in, if git says one."""
    script = Path(sys.argv[0] or ".").resolve()
    folder = script if script.is_dir() else script.parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0+unknown"
