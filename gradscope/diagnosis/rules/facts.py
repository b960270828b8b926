"""What a rule has to know of a run that does not stand in its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr


def _trusted(baseline: float, source: str) -> float:
    """NaN for a baseline that was guessed: of a loss of unknown kind, or summed, it may be off by any factor."""
    return float("nan") if source.startswith("guessed") else float(baseline)


@dataclass(frozen=True)
class Facts:
    """``matrices``, ``grids``, ``frozen``: masks over the parameters, [P].

    More than one dimension; more than one that is longer than 1 (a gain may be shaped [1, C, 1, 1]); never trained.
    ``group``: [P], the parameter group, -1 for none. ``momentum``, ``adaptive``: one entry a group.
    ``module_types``: class names by module; empty in records that do not say. ``baseline_loss`` is NaN where nothing
    is known of it.
    """

    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    numel: NDArray[np.float64]
    matrices: NDArray[np.bool_]
    grids: NDArray[np.bool_]
    frozen: NDArray[np.bool_]
    group: NDArray[np.int64]
    momentum: tuple[float, ...]
    adaptive: tuple[bool, ...]
    module_types: Mapping[str, str] = field(default_factory=dict)
    baseline_loss: float = float("nan")

    @classmethod
    def of(
        cls,
        parameters: Iterable[Any],
        modules: Iterable[Any],
        numel: Any,
        group: Any,
        config: Mapping[str, Any],
        capture: Mapping[str, Any],
        baseline_loss: float,
    ) -> Facts:
        """From the names and the ``config`` and ``capture`` of a record, or of one that is about to be made."""
        names = tuple(str(name) for name in parameters)
        shapes, kinds = _of_kind(config, "shapes", dict), _of_kind(config, "modules", dict)
        frozen = _of_kind(capture, "frozen", list)
        return cls(
            parameters=names,
            modules=tuple(str(name) for name in modules),
            numel=np.asarray(numel, dtype=np.float64),
            matrices=np.array([len(_of_kind(shapes, name, list)) > 1 for name in names], dtype=bool),
            grids=np.array([sum(n > 1 for n in _of_kind(shapes, name, list)) > 1 for name in names], dtype=bool),
            frozen=np.array([name in frozen for name in names], dtype=bool),
            group=np.asarray(group, dtype=np.int64),
            momentum=tuple(float(g.get("momentum", 0.0)) for g in config["groups"]),
            adaptive=tuple(bool(g.get("adaptive", False)) for g in config["groups"]),
            module_types={str(name): str(kind) for name, kind in kinds.items()},
            baseline_loss=_trusted(baseline_loss, str(capture.get("baseline_loss", ""))),
        )

    @classmethod
    def from_record(cls, dataset: xr.Dataset) -> Facts:
        """Of a recorded run."""
        return cls.of(
            dataset["parameter"].values,
            dataset["module"].values if "module" in dataset.variables else (),
            dataset["numel"].values,
            dataset["group"].values,
            json.loads(dataset.attrs["config"]),
            json.loads(dataset.attrs["capture"]),
            float(dataset.attrs.get("baseline_loss", np.nan)),
        )

    def with_baseline(self, loss: float, source: str) -> Facts:
        """The same run, once it is known what loss a constant predictor has, and from where."""
        return replace(self, baseline_loss=_trusted(loss, source))

    def of_groups(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """A quantity of the parameter groups, [N, G] or [G], for each parameter, [N, P] or [P]; NaN for none."""
        values = np.asarray(values, dtype=np.float64)
        found = values[..., np.clip(self.group, 0, values.shape[-1] - 1)]
        return np.where((self.group >= 0) & (self.group < values.shape[-1]), found, np.nan)


def _of_kind(values: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """An entry, or an empty one where the file holds none or something else."""
    value = values.get(name)
    return value if isinstance(value, kind) else kind()
