"""Sum targets on their device, one class for each way in which a constant can be the best.

``add`` runs in the training thread, in some steps: it copies the targets, or some of them, and nothing waits. The rest
runs in the background: `digest` adds them up, `baseline` reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.recorder.baseline import prior

Array = NDArray[np.float64]
REDUCTION = ("none", "mean", "sum")

#: Outputs that get a best constant each; where there are more, one for all.
OUTPUTS = 1 << 20
#: Entries of the targets of one call that are looked at, at most.
TAKEN = 1 << 17
#: Targets kept as they are, for losses that need them all, and rows of one step.
KEPT, ROWS = 1 << 17, 64
#: First calls, and rows of each, whose outputs are looked at.
LOOKED = 8
#: Targets of a call below which it says nothing that they are one number.
LEAST_TARGETS = 4
#: Calls that wait to be added up, at most.
QUEUE = 256

#: What `add` has taken of one call: targets, the share of all that they are, weights.
Taken = tuple[Tensor, float, Tensor | None, Tensor | None]


class Sums(ABC):
    """Sums of one loss function and shape of targets.

    Attributes:
        kind: of loss function.
        reduction: index in `REDUCTION`.
        values: results of the calls of each step that was looked at.
        asked: the one number that all targets of each of these calls are; NaN where they are several.
        calls: counted so far.
        rows: targets counted so far.
    """

    def __init__(self, kind: str, reduction: int) -> None:
        self.kind, self.reduction = kind, reduction
        self.values: dict[int, list[float]] = {}
        self.asked: dict[int, list[float]] = {}
        self.calls = 0
        self.rows = 0
        self._queue: deque[tuple[int, Taken, Tensor]] = deque()

    def add(self, step: int, arguments: tuple[Any, ...], named: dict[str, Any], result: Tensor) -> None:
        """Take one call, unless too many wait to be added up."""
        if len(self._queue) < QUEUE:
            value = result.detach()
            value = value.mean(dtype=torch.float32) if value.ndim else value.clone()
            self._queue.append((step, self._taken(arguments, named), value))

    def digest(self, border: int) -> None:
        """Add up what was taken in the steps before ``border``."""
        if self._queue and self._queue[0][2].is_cuda:  # whichever stream the training copied them on
            torch.cuda.synchronize(self._queue[0][2].device)
        while self._queue and self._queue[0][0] < border:
            step, taken, value = self._queue.popleft()
            with torch.no_grad():
                self._count(*taken)
                self.asked.setdefault(step, []).append(self._one(taken[0]))
            self.values.setdefault(step, []).append(float(value))
            self.calls += 1

    def _one(self, target: Tensor) -> float:
        """Return the number that all targets of one call are, for kinds of loss that have such; else NaN."""
        return float("nan")

    @abstractmethod
    def _taken(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Taken:
        """Copy what `_count` needs."""

    @abstractmethod
    def _count(self, target: Tensor, share: float, weight: Tensor | None, positive: Tensor | None) -> None: ...

    @property
    def probabilities(self) -> bool:
        """Whether the outputs of the first calls were shares of 1, where the loss takes logits or logarithms.

        Asked in the background.
        """
        return False

    @abstractmethod
    def baseline(self) -> float:
        """Compute the result that one call has with the best constant."""

    @property
    @abstractmethod
    def constant(self) -> bool:
        """Whether all targets are the same; asked in the background."""

    @property
    def of_zero(self) -> float:
        """What a net that puts out 0 pays, over the baseline; NaN where 0 says something, as a logit does."""
        return float("nan")

    @property
    def equal(self) -> str:
        """That the targets are those of equal classes and the loss a plain cross-entropy, in words; empty if not."""
        return ""

    @property
    @abstractmethod
    def text(self) -> str:
        """What the baseline is, and what it rests on."""


class Classes(Sums):
    """Sums of cross-entropy and negative log-likelihood; ``mass`` multiplies −ln p_c in the sum of the losses."""

    def __init__(self, kind: str, reduction: int, classes: int, device: torch.device, smoothing: float) -> None:
        super().__init__(kind, reduction)
        self.classes, self.smoothing = classes, smoothing
        self.counts = torch.zeros(classes, dtype=torch.float32, device=device)
        self.mass = torch.zeros(classes, dtype=torch.float32, device=device)
        self.norm = torch.zeros((), dtype=torch.float32, device=device)
        self.soft, self.weighted, self.ignored = False, False, -100
        self._outputs: deque[Tensor] = deque()  # of the first calls, some rows
        self._looked = self._shares = 0

    def _taken(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Taken:
        logits, target = (t.detach() for t in arguments[:2])
        weight = _argument(arguments, named, 2, "weight")
        if self._looked < LOOKED and self.classes > 1:
            self._looked += 1
            rows = logits.movedim(1 if logits.ndim > 1 else 0, -1).reshape(-1, self.classes)
            self._outputs.append(rows[:LOOKED].clone())
        self.ignored = int(_argument(arguments, named, 4, "ignore_index", -100))
        if target.is_floating_point():
            target = target.movedim(1 if logits.ndim > 1 else 0, -1).reshape(-1, self.classes)
        else:
            target = target.reshape(-1)
        some, share = _some(target)
        return some.clone(), share, None if weight is None else weight.detach().clone(), None

    @property
    def probabilities(self) -> bool:
        """Whether the outputs of all of the first calls were shares of 1."""
        return self._shares == LOOKED

    def _count(self, target: Tensor, share: float, weight: Tensor | None, positive: Tensor | None) -> None:
        if self._outputs:
            rows = self._outputs.popleft().float()
            self._shares += bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < 1e-2).all())
        self.weighted |= weight is not None
        w = torch.ones_like(self.mass) if weight is None else weight.to(self.mass)
        if target.is_floating_point():
            self.soft = True
            counts = target.to(self.mass).sum(0)
            n = norm = torch.full_like(self.norm, len(target))
        else:
            valid = (target != self.ignored).to(self.mass)
            counts = torch.zeros_like(self.counts).index_add_(0, target.clamp(0, self.classes - 1), valid)
            n = counts.sum()
            norm = (w * counts).sum() if self.reduction != 0 else torch.full_like(self.norm, len(target))
        self.counts += counts
        self.mass += w * ((1 - self.smoothing) * counts + self.smoothing / self.classes * n) / share
        self.norm += norm / share

    def _divided(self, total: float) -> float:
        return total / (self.calls if self.reduction == 2 else max(float(self.norm), 1e-300))

    def baseline(self) -> float:
        """Compute the cross-entropy of the best constant shares, as one call reduces it."""
        mass, counts = (t.cpu().double().numpy() for t in (self.mass, self.counts))
        if self.equal:  # what is random in the counts is left out
            return self._divided(float(mass.sum()) * float(np.log(self.classes)))
        extra = 0.0 if self.soft else prior.unseen(counts, self.classes) * mass.sum()
        return self._divided(prior.of_classes(mass) + extra)

    @property
    def equal(self) -> str:
        """The entropy of equal classes in words, where the counts bear that out."""
        counts = self.counts.cpu().double().numpy()
        plain = not self.soft and not self.smoothing and not self.weighted and prior.look_equal(counts)
        borne = f"which {counts.sum():.0f} targets of {self.kind} bear out"
        return f"entropy of {self.classes} equal classes, the width of the output, {borne}" if plain else ""

    @property
    def constant(self) -> bool:
        """Whether only one class came."""
        return bool((self.counts > 0).sum() < 2) and not self.soft

    @property
    def text(self) -> str:
        """The classes and targets that the baseline rests on."""
        counts = self.counts.cpu().numpy()
        came = int((counts > 0).sum())
        smoothed = f", label smoothing {self.smoothing:g}" if self.smoothing else ""
        return f"{came} of {self.classes} classes as often as they came in {counts.sum():.0f} targets{smoothed}"


class Numbers(Sums):
    """Sums of squared errors and binary cross-entropies, for each output."""

    def __init__(self, kind: str, reduction: int, outputs: int, device: torch.device) -> None:
        super().__init__(kind, reduction)
        self.outputs, self.bits = outputs, kind.startswith("binary")
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.table = torch.zeros(5, outputs, dtype=exact, device=device)  # 1, t, t², w·t, w·(1 − t)
        self.entries = 0.0
        self.varied = torch.zeros((), dtype=exact, device=device)  # calls whose targets were not all one number

    def _taken(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Taken:
        target = arguments[1].detach()
        weight = _argument(arguments, named, 2, "weight") if self.bits else None
        positive = _argument(arguments, named, 3, "pos_weight") if self.kind.endswith("logits") else None

        def by_output(t: Tensor | None) -> Tensor | None:
            return None if t is None else _some(t.detach().expand(target.shape).reshape(-1, self.outputs))[0].clone()

        some, share = _some(target.reshape(-1, self.outputs))
        return some.clone(), share, by_output(weight), by_output(positive)

    def _count(self, target: Tensor, share: float, weight: Tensor | None, positive: Tensor | None) -> None:
        t = target.to(self.table.dtype)
        rows = [torch.full_like(self.table[0], len(t)), t.sum(0), t.square().sum(0)]
        if self.bits:
            w, p = (1.0 if f is None else f.to(t) for f in (weight, positive))
            rows += [(w * p * t).sum(0), (w * (1 - t)).sum(0)]
        self.table[: len(rows)] += torch.stack(rows)
        self.varied += (t != t.reshape(-1)[0]).any() if t.numel() >= LEAST_TARGETS else 1
        self.rows += len(t)
        self.entries += target.numel() / share

    def _one(self, target: Tensor) -> float:
        first = target.reshape(-1)[:1]
        return float(first) if target.numel() and bool((target == first).all()) else float("nan")

    def baseline(self) -> float:
        """Compute the error of the best constant for each output, as one call reduces it."""
        count, total, square, yes, no = self.table.cpu().double().numpy()
        mean = prior.of_bits(yes, no, count, square) if self.bits else prior.of_squares(total, square, count)
        return mean * (self.entries / self.calls if self.reduction == 2 else 1)

    @property
    def of_zero(self) -> float:
        """Squared error of a net that puts out 0, over that of the best constant; NaN for cross-entropies."""
        count, total, square = self.table[:3].cpu().double().numpy()
        spread = float((square - total**2 / count).sum())
        return float("nan") if self.bits or not spread > 0 else float(square.sum() / spread)

    @property
    def constant(self) -> bool:
        """Whether all targets are the same, or all those of each call.

        An adversary is asked for ones of the data and for zeros of what is made up.
        """
        if self.calls >= LOOKED and not bool(self.varied):
            return True
        count, total, square = self.table[:3].cpu().double().numpy()
        return bool(((square / count - (total / count) ** 2) <= 1e-9 * np.maximum(square / count, 1e-30)).all())

    @property
    def text(self) -> str:
        """The outputs and targets that the baseline rests on."""
        each = f"each of {self.outputs} outputs" if self.outputs > 1 else "the output"
        return f"the best constant for {each}, of {self.rows} targets"


class Distances(Sums):
    """Targets of absolute errors and their smooth kin, of which some are kept."""

    def __init__(self, kind: str, reduction: int, outputs: int, threshold: float, scale: float) -> None:
        super().__init__(kind, reduction)
        self.outputs, self.threshold, self.scale = outputs, threshold, scale
        self.kept: list[Tensor] = []
        self.entries = 0.0

    def _taken(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Taken:
        target = arguments[1].detach()
        t = target.reshape(-1, self.outputs)
        some = t[:: -(-len(t) // ROWS)].float().clone()
        return some, len(some) / len(t), None, None

    def _count(self, target: Tensor, share: float, weight: Tensor | None, positive: Tensor | None) -> None:
        self.entries += target.numel() / share
        if sum(len(t) for t in self.kept) * self.outputs < KEPT:
            self.kept.append(target)

    def _targets(self) -> Array:
        return torch.cat(self.kept).cpu().double().numpy()

    def baseline(self) -> float:
        """Compute the distance from the best constant for each output, as one call reduces it."""
        mean = self.scale * prior.of_distances(self._targets(), self.threshold)
        return mean * (self.entries / self.calls if self.reduction == 2 else 1)

    @property
    def of_zero(self) -> float:
        """Distance of a net that puts out 0, over that of the best constant."""
        best = prior.of_distances(self._targets(), self.threshold)
        return float(prior.distances(self._targets(), self.threshold).mean()) / best if best > 0 else float("nan")

    @property
    def constant(self) -> bool:
        """Whether all kept targets are the same."""
        targets = self._targets()
        return bool((targets == targets[:1]).all())

    @property
    def text(self) -> str:
        """The outputs and targets that the baseline rests on."""
        each = f"each of {self.outputs} outputs" if self.outputs > 1 else "the output"
        return f"the best constant for {each}, of {len(self._targets())} targets"


def _argument(arguments: tuple[Any, ...], named: dict[str, Any], place: int, name: str, default: Any = None) -> Any:
    return arguments[place] if len(arguments) > place else named.get(name, default)


def _some(rows: Tensor) -> tuple[Tensor, float]:
    """Take some of the rows, evenly spaced, where they are too many; return them and the share of all that they are."""
    every = min(max(1, rows.numel() // TAKEN), max(1, len(rows) // 2))
    some = rows[::every]
    return some, len(some) / len(rows)


def _reduction(kind: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
    place = {"cross_entropy": 3, "nll_loss": 3, "binary_cross_entropy": 3, "binary_cross_entropy_with_logits": 4}
    return int(_argument(arguments, named, place.get(kind, 2), "reduction", 1))


def sums_for(
    kind: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], Callable[[], Sums]] | None:
    """Return which sums a call belongs to, and how to begin them; None for a call that tells nothing."""
    values, target = arguments[:2]
    reduction = _reduction(kind, arguments, named)
    device = target.device
    if not target.numel() or device != values.device:
        return None
    if kind in ("cross_entropy", "nll_loss"):
        classes = int(values.shape[1 if values.ndim > 1 else 0])
        smoothing = float(_argument(arguments, named, 5, "label_smoothing", 0.0)) if kind == "cross_entropy" else 0.0
        key = (kind, reduction, classes, smoothing, device, target.is_floating_point())
        return key, lambda: Classes(kind, reduction, classes, device, smoothing)
    if values.shape != target.shape or not target.is_floating_point():
        return None
    each = int(np.prod(target.shape[1:])) if target.ndim > 1 else 1
    outputs = each if each <= OUTPUTS else 1
    if kind in ("l1_loss", "smooth_l1_loss", "huber_loss"):
        width = 1.0 if kind != "l1_loss" else 0.0
        beta = (
            float(_argument(arguments, named, 3, "beta" if kind == "smooth_l1_loss" else "delta", width))
            if width
            else 0.0
        )
        scale = 1 / beta if kind == "smooth_l1_loss" and beta > 0 else 1.0  # smooth L1 is Huber over its threshold
        if outputs > KEPT // ROWS:
            outputs = 1
        return (kind, reduction, outputs, beta, device), lambda: Distances(kind, reduction, outputs, beta, scale)
    return (kind, reduction, outputs, device), lambda: Numbers(kind, reduction, outputs, device)
