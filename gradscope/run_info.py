"""Properties of a run that do not change from row to row: tensors, groups, penalty, plan. The same live and read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Ways for a penalty to act (`PenaltySource.acts`): on the weights, and as part of the optimizer's gradient.
BESIDE, THROUGH = {"decoupled", "proximal", "constraint"}, {"gradient", "loss"}


#: In the kind of a loss: asked for ones alone, as a generator is, a net is as good as the one that judges it is bad.
SINGLE = "all targets (of the call that is logged, in all steps) are the same"
#: In the kind of a loss: as of a WGAN's critic and generator, it measures one net by another.
UNBOUNDED = "the mean of an output, which nothing bounds from below"

#: Parts of the class names of normalisations.
NORMALISATIONS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")


def _no_mask() -> Mask:
    return np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class Sibling:
    """Finished run of the same configuration at another strength, as far as a judge looks at it.

    Attributes:
        strength: λ.
        failed: it failed by its penalty.
        signal: ln of the spread of its output over samples at each row count at which a judge looks, as far as it ran;
            NaN where that is not known.
    """

    strength: float
    failed: bool
    signal: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        known = [x if math.isfinite(x) else None for x in self.signal]
        return {"strength": self.strength, "failed": self.failed, "signal": known}

    @classmethod
    def from_dict(cls, values: Any) -> Sibling:
        """Read it from what `as_dict` returned; raise `ValueError` for anything else."""
        try:
            signal = tuple(math.nan if x is None else float(x) for x in values["signal"])
            sibling = cls(float(values["strength"]), bool(values["failed"]), signal)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{values!r:.60} is no finished trial") from error
        if not 0 < sibling.strength < math.inf:
            raise ValueError(f"{sibling.strength} is no strength of a finished trial")
        return sibling


@dataclass(frozen=True)
class RunInfo:
    """What judge, rules, figures and sinks have to know of a run beside its rows.

    Attributes:
        parameters: names, [P].
        numel: entries, [P].
        penalised: whether a penalty acts, [P].
        group: the parameter group, counted over all optimizers, [P]; -1 for none.
        penalty: its word, such as ``"l2"``.
        momentum: one entry a parameter group.
        beside: whether the penalty acts on the weights beside the optimizer's step, so that no momentum multiplies
            it; one entry a group.
        adaptive: whether steps hardly depend on the size of the gradient; one entry a group.
        baseline_loss: of the best constant predictor; NaN where nothing is known of it.
        baseline_source: where that number is from.
        horizon: planned steps.
        modules: names of the columns of the activations.
        steered: the strength follows the training loss (Auto L2 and the like), so that the run itself may lower it.
        matrices: more than one dimension, [P].
        grids: more than one dimension that is longer than 1, [P] (a gain may be shaped [1, C, 1, 1]).
        frozen: never trained, [P].
        module_types: class names by module; empty in records that do not say.
        baseline_history: a step, the baseline that was known from there on, and its source, where it was told better as
            the run went on; the last is ``baseline_loss``.
        loss_kind: the loss functions that the logged loss is made of, or why that is not known.
        part_of_loss: where the logged loss has other terms than the loss functions that were seen, these over their own
            baseline at the end: the mean and three standard errors; NaN elsewhere.
        loss_of_zero: of a regression, what a net that puts out 0 pays, over the baseline, by the targets of the first
            rows; NaN elsewhere.
        unowned: in no optimizer when the recording began, [P].
        foreign: how many parameters the optimizers hold that the model does not.
        never_cleared: gradients were not cleared between the first steps, so that they added up.
        probabilities: a cross-entropy, which takes logits, was given probabilities.
        by_hand: what the script takes of the weights after each of the first steps, or the optimizer in each by a decay
            of its own, as a share of them.
        cut_by_value: what clipping by value left of the gradients' norm in the first rows, on average; NaN for none.
        hidden: modules with parameters in plain lists and dictionaries, which the model does not register.
        siblings: finished trials of the same search that it is judged beside.
    """

    parameters: tuple[str, ...]
    numel: Array
    penalised: Mask
    group: NDArray[np.int64]
    penalty: str
    momentum: tuple[float, ...]
    beside: tuple[bool, ...]
    adaptive: tuple[bool, ...]
    baseline_loss: float = float("nan")
    baseline_source: str = "unknown"
    horizon: int | None = None
    modules: tuple[str, ...] = ()
    steered: bool = False
    matrices: Mask = field(default_factory=_no_mask)
    grids: Mask = field(default_factory=_no_mask)
    frozen: Mask = field(default_factory=_no_mask)
    module_types: Mapping[str, str] = field(default_factory=dict)
    baseline_history: tuple[tuple[int, float, str], ...] = ()
    loss_kind: str = ""
    part_of_loss: float = float("nan")
    loss_of_zero: float = float("nan")
    unowned: Mask = field(default_factory=_no_mask)
    foreign: int = 0
    hidden: tuple[str, ...] = ()
    never_cleared: bool = False
    probabilities: bool = False
    by_hand: float = 0.0
    cut_by_value: float = float("nan")
    siblings: tuple[Sibling, ...] = ()

    @property
    def watched(self) -> Mask:
        """Parameters that the verdict is about, [P]: the penalised ones, all where none is."""
        return self.penalised if self.penalised.any() else np.ones_like(self.penalised)

    @property
    def adversary(self) -> bool:
        """Whether the loss tells how another net does, as in GANs, and neither learning nor failure."""
        return SINGLE in self.loss_kind or UNBOUNDED in self.loss_kind

    @property
    def normalisations(self) -> frozenset[str]:
        """Modules that normalise, as far as the record says what modules are."""
        return frozenset(
            name for name, kind in self.module_types.items() if any(part in kind for part in NORMALISATIONS)
        )

    @property
    def sure_baseline(self) -> float:
        """Baseline loss; NaN for one that was guessed: of a loss of unknown kind, or summed, it may be off.

        The one that was told with the first rows, so that rules on the start of a run say the same live and later.
        """
        _, loss, source = (self.baseline_history or ((0, self.baseline_loss, self.baseline_source),))[0]
        return float("nan") if source.startswith("guessed") else float(loss)

    @property
    def applied_twice(self) -> str:
        """``softmax`` or ``sigmoid``, where the loss applies it to outputs that are probabilities; else empty."""
        last = str(["", *self.module_types.values()][-1])
        takes = {
            "Softmax": ("cross_entropy",),
            "Sigmoid": ("binary_cross_entropy_with_logits", "cross_entropy"),
        }
        if self.loss_kind in takes.get(last, ()):
            return last.lower()
        return "softmax" if self.probabilities else ""

    def of_groups(self, values: NDArray[Any]) -> Array:
        """Spread a quantity of the parameter groups, [N, G] or [G], over the parameters, [N, P] or [P], or NaN."""
        values = np.asarray(values, dtype=np.float64)
        found = values[..., np.clip(self.group, 0, values.shape[-1] - 1)]
        return np.where((self.group >= 0) & (self.group < values.shape[-1]), found, np.nan)

    @classmethod
    def of(
        cls,
        parameters: Iterable[Any],
        modules: Iterable[Any],
        static: Mapping[str, Any],
        penalty: str,
        config: Mapping[str, Any],
        capture: Mapping[str, Any],
        baseline_loss: float | None = None,
        horizon: int | None = None,
    ) -> RunInfo:
        """Build it for a record, or for one that is about to be made.

        Args:
            parameters: names.
            modules: names.
            static: ``numel``, ``penalised`` and ``group``, [P] each.
            penalty: its word.
            config: settings, as a record's attribute holds them, parsed.
            capture: what was found of the run, likewise.
            baseline_loss: of the best constant predictor, None where unknown.
            horizon: planned steps, None or below 1 where unknown.

        Returns:
            What does not change from row to row.
        """
        names, groups = tuple(str(name) for name in parameters), config["groups"]
        shapes, kinds = _of_kind(config, "shapes", dict), _of_kind(config, "modules", dict)
        shape = [_of_kind(shapes, name, list) for name in names]
        frozen = _of_kind(capture, "frozen", list)
        return cls(
            parameters=names,
            numel=np.asarray(static["numel"], dtype=np.float64),
            penalised=np.asarray(static["penalised"]).astype(bool),
            group=np.asarray(static["group"], dtype=np.int64),
            penalty=str(penalty),
            momentum=tuple(float(g.get("momentum", 0.0)) for g in groups),
            beside=acting_beside(capture.get("penalties", ()), len(groups)),
            adaptive=tuple(bool(g.get("adaptive", False)) for g in groups),
            baseline_loss=float("nan") if baseline_loss is None else float(baseline_loss),
            baseline_source=str(capture.get("baseline_loss", "unknown")),
            horizon=horizon if horizon is not None and horizon > 0 else None,
            modules=tuple(str(name) for name in modules),
            steered=bool(config.get("steered", False)),
            matrices=np.array([len(sizes) > 1 for sizes in shape], dtype=bool),
            grids=np.array([sum(n > 1 for n in sizes) > 1 for sizes in shape], dtype=bool),
            frozen=np.array([name in frozen for name in names], dtype=bool),
            module_types={str(name): str(kind) for name, kind in kinds.items()},
            baseline_history=history_of(_of_kind(capture, "baseline_history", list)),
            loss_kind=_of_kind(capture, "loss_kind", str),
            part_of_loss=_of_kind(capture, "part_of_loss", float) or float("nan"),
            loss_of_zero=_of_kind(capture, "loss_of_zero", float) or float("nan"),
            unowned=np.array([name in _of_kind(capture, "not_recorded", dict) for name in names], dtype=bool),
            foreign=_of_kind(capture, "foreign_parameters", int),
            hidden=tuple(str(name) for name in _of_kind(capture, "unregistered_modules", list)),
            never_cleared=_of_kind(capture, "gradients_never_cleared", bool),
            probabilities=_of_kind(capture, "loss_takes_probabilities", bool),
            by_hand=_of_kind(capture, "weights_scaled_by_hand", float) + _of_kind(capture, "decay_of_its_own", float),
            cut_by_value=_of_kind(capture, "cut_by_value", float) or float("nan"),
            siblings=siblings_of(_of_kind(capture, "siblings", list)),
        )

    @classmethod
    def from_record(cls, names: Any, variables: Any, attrs: Mapping[Any, Any]) -> RunInfo:
        """Build it from the parameter table and root attributes of a record (``variables[name]`` is an array)."""
        modules: Any = variables["module"] if "module" in variables else ()  # noqa: SIM401 (a dataset, too)
        return cls.of(
            names,
            getattr(modules, "values", modules),
            variables,
            attrs["penalty"],
            json.loads(attrs["config"]),
            json.loads(attrs["capture"]),
            attrs.get("baseline_loss"),
            int(attrs.get("horizon", -1)),
        )


def history_of(entries: Iterable[Any]) -> tuple[tuple[int, float, str], ...]:
    """Parse step, baseline and source from what a record's ``capture`` holds; leave out what is of another shape."""
    whole = [entry for entry in entries if isinstance(entry, list | tuple) and len(entry) == 3]
    return tuple((int(step), float(loss), str(source)) for step, loss, source in whole)


def siblings_of(entries: Iterable[Any]) -> tuple[Sibling, ...]:
    """Parse the finished trials that a record's ``capture`` names; none where they are of another shape."""
    try:
        return tuple(Sibling.from_dict(entry) for entry in entries)
    except ValueError:
        return ()


def acting_beside(penalties: Iterable[Mapping[str, Any]], groups: int) -> tuple[bool, ...]:
    """Return for each parameter group whether its penalty acts beside the optimizer's step.

    From what the record's ``capture`` says of its penalties (``group``, ``acts``): decoupled decay, proximal steps and
    constraints, unless another penalty goes through the gradient. A decay that goes through the optimizer (``coupled``)
    is listed where it is 0, too, and says nothing beside one of those.

    Returns:
        One entry a group.
    """
    found: list[set[str]] = [set() for _ in range(groups)]
    for penalty in penalties:
        if 0 <= penalty["group"] < groups:
            found[penalty["group"]].add(penalty["acts"])
    return tuple(bool(acts & BESIDE) and not acts & THROUGH for acts in found)


def _of_kind(values: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Return an entry, or an empty one where the file holds none or something else."""
    value = values.get(name)
    return value if isinstance(value, kind) else kind()
