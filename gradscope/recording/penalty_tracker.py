"""Track every penalty on the optimizers of a recording: what acts, how strongly, and what the recorder needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradscope.optimizers.decay import decay_of, own_decay
from gradscope.optimizers.parameter_groups import LATER, Groups
from gradscope.processes.instructions import Instructions
from gradscope.recorder.kernels.statistics import norms
from gradscope.recorder.penalty_probe import PenaltyProbe, PenaltyTerm
from gradscope.recording import provenance
from gradscope.regularizers.changes import StrengthChanges
from gradscope.regularizers.hooks import attached_to
from gradscope.regularizers.overrides import obey
from gradscope.regularizers.penalties import Penalty
from gradscope.regularizers.scale_invariance import ScaleInvariance
from gradscope.regularizers.sources import PenaltySource, joint_gradients, penalty_sources
from gradscope.regularizers.term import Term, TermPenalty
from gradscope.types import InputError


class PenaltyTracker:
    """Every penalty on the optimizers of one recording, as the recorder and the judge need to know it.

    Args:
        optimizers: the optimizers.
        parameters: that are recorded, by name.
        declared: a penalty that the loop itself adds to the loss.
        asked: instructions of a supervisor.
        goes_on: the run continues a record.

    Attributes:
        term: the user's own term in the loss, while it is watched.
        places: the columns of the parameter groups.
        groups: their settings.
        group: of each parameter, −1 for none, [parameters].
        changes: of the strengths.
        scale_invariance: of the weights.
        step: the coming one.
        thawed: by name of a parameter that was frozen, the first step at which it was not.
        probe: what the recorder needs.

    Raises:
        InputError: the penalty or an instruction cannot be used.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        parameters: Mapping[str, Tensor],
        declared: tuple[Penalty, float] | Term | None,
        asked: Instructions,
        goes_on: bool = False,
    ) -> None:
        own, declared = (declared, None) if isinstance(declared, Term) else (None, declared)
        if declared is not None and (asked.strength is not None or asked.schedule is not None):
            raise InputError(
                "the penalty stands inside the loss (penalty=…), where gradscope cannot change it; "
                "let the script take {strength}, or use gradscope.regularize"
            )
        if declared is not None and not (
            isinstance(declared, tuple) and len(declared) == 2 and isinstance(declared[0], Penalty)
        ):
            raise InputError(
                f"penalty is {declared!r}; expected the penalty and its strength, such as (L1(), 1e-4), or a Term"
            )
        self._optimizers = list(optimizers)
        self._names = list(parameters)
        self._columns = {id(p): i for i, p in enumerate(parameters.values())}
        self._frozen: list[Tensor] = []
        self.thawed: dict[str, int] = {}
        self._declared = declared
        self._logged_pure = False  # the loss is logged without the declared penalty
        #: The user's own term in the loss, while it is watched.
        self.term = None if own is None else own.attach(optimizers, list(parameters.values()), goes_on)
        self._undo = [] if self.term is None else [self.term.detach]
        try:
            self._undo += obey(optimizers, asked.strength, asked.penalty, asked.schedule)
        except InputError:
            self.detach()
            raise
        # The groups that there are now; parameters that are added later are not recorded.
        flat = [(o, n, group) for n, o in enumerate(optimizers) for group in o.param_groups]
        self.places = Groups(optimizers)
        self.groups = [
            provenance.group_settings(group)
            | {
                "optimizer": number,
                "class": type(optimizer).__name__,
                "decoupled": decay_of(optimizer, group).decoupled,
                "adaptive": decay_of(optimizer, group).adaptive,
            }
            for optimizer, number, group in flat
        ]
        self._members = [[p for p in group["params"] if p.ndim > 1] for _, _, group in flat]
        self.group = np.full(len(parameters), -1, dtype=np.int64)
        for index, (_, _, group) in enumerate(flat):
            for p in group["params"]:
                if id(p) in self._columns:
                    self.group[self._columns[id(p)]] = index
        self._mask = np.zeros(len(parameters), dtype=bool)
        self._new = False
        self.changes = StrengthChanges()
        weights = list(parameters.values())
        self.scale_invariance = ScaleInvariance(
            self._names, np.array([w.numel() for w in weights]), np.array([w.ndim > 1 for w in weights])
        )
        self.step = -1
        self.refresh()

    def changed(self) -> bool:
        """Return whether since the last look a penalty was attached or removed, a group added, a parameter thawed."""
        self.places.now()
        if self._generation != self.places.generation:
            return True
        for p in self._frozen:  # a generator would cost more
            if p.requires_grad:
                return True
        return self._handles != [handle for o in self._optimizers for handle in attached_to(o)]

    def refresh(self) -> None:
        """Look again at what is attached to the optimizers."""
        self._handles = [handle for o in self._optimizers for handle in attached_to(o)]
        self.places.now()
        self._generation = self.places.generation
        for p in self._frozen:
            if p.requires_grad and id(p) in self._columns:
                self.thawed.setdefault(self._names[self._columns[id(p)]], self.step)
        members = [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
        self._frozen = [p for p in members if not p.requires_grad]
        for handle in self._handles:
            handle.watched = True
        self._sources: list[tuple[PenaltySource, int]] = []
        for optimizer, places in zip(self._optimizers, self.places.places, strict=True):
            self._sources += [(source, places[source.group]) for source in penalty_sources(optimizer)]
        if self._declared is not None:
            self._declare(*self._declared)
        if self.term is not None:
            self._declare_term(self.term)
        self._acted = np.array([source.intended for source, _ in self._sources], dtype=bool)
        self._last: tuple[float, ...] = ()
        self._moving = True
        self._labels = [self._label(source, group) for source, group in self._sources]
        self.probe = self._probe()
        self._note_penalised()

    def _declare(self, penalty: Penalty, strength: float) -> None:
        for index, members in enumerate(self._members):
            if members:
                ids = frozenset(id(p) for p in members)
                source = PenaltySource(
                    penalty.name, index, ids, lambda: strength, "loss", True, penalty.gradients, penalty.shares()
                )
                self._sources.insert(0, (source, index))

    def _declare_term(self, term: TermPenalty) -> None:
        for index, group in enumerate(group for o in self._optimizers for group in o.param_groups):
            ids = frozenset(id(p) for p in group["params"] if p.requires_grad) & term.parameters
            if ids and index < len(self.groups):
                source = PenaltySource(term.name, index, ids, term.strength, "loss", True, term.pulls, None)
                self._sources.insert(0, (source, index))

    def _probe(self) -> PenaltyProbe:
        """Make the terms of the sources, and one more of strength 1 for what has to be measured on the device.

        Where a source on a parameter has to be measured, all sources on it are, as one sum with their strengths: then
        two of them never share a row, and what cancels, cancels.

        Returns:
            What the recorder needs.
        """
        sources = [source for source, _ in self._sources]
        columns = [sorted(self._columns[p] for p in source.parameters if p in self._columns) for source in sources]
        where = sorted({i for source, mine in zip(sources, columns, strict=True) if not source.shares for i in mine})
        alone = [[i for i in mine if i not in where] for mine in columns]
        terms = [
            PenaltyTerm(np.array(mine, dtype=np.int64), source.shares or (0.0, 0.0), group)
            for (source, group), mine in zip(self._sources, alone, strict=True)
        ]
        if where:
            # Last, so that the strength shown of its group is that of a source.
            terms.append(PenaltyTerm(np.array(where, dtype=np.int64), None, int(self.group[where[0]])))

        def strengths() -> tuple[float, ...]:
            return (*self._strengths(), 1.0) if where else self._strengths()

        def measure(weights: Sequence[Tensor]) -> dict[int, Tensor]:
            gradients = joint_gradients(sources, columns, self._last, weights, where)
            return {len(terms) - 1: torch.stack(norms(gradients, "l1"))}

        probe = PenaltyProbe(terms, strengths, measure if where else None, pulls=self._pulls)
        if self._declared is not None:
            probe.inside_loss, probe.value_inside_loss = self._inside_loss, self._value_inside_loss
            probe.logged_inside = not self._logged_pure
        if (term := self.term) is not None:
            like = term.like()
            probe.inside_loss, probe.value_inside_loss = term.inside, lambda: term.value(like)
            probe.logged_inside = not self._logged_pure
        return probe

    def _strengths(self) -> tuple[float, ...]:
        """Return λ of each source at the coming step; what changes goes to the events of the record."""
        now = tuple([source.strength() for source, _ in self._sources])
        changed = now != self._last
        if changed:
            self._last = now
            acting = self._acted | np.array(now, dtype=bool)
            if (acting != self._acted).any():
                self._acted = acting
                self._note_penalised()
        if changed or self._moving:  # one look more than there are changes: it tells where they end
            seen = {n: value for n, value, acted in zip(self._labels, now, self._acted, strict=True) if acted}
            self.changes.see(self.step, seen)
        self._moving = changed
        return now

    def _pulls(self, weights: Sequence[Tensor], directly: bool) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Compute λ∂Ω/∂w through the optimizer's gradient and, if wanted, beside it, a tensor a weight."""
        through: dict[int, Tensor] = {}
        beside: dict[int, Tensor] = {}
        for source, _ in self._sources:
            strength = source.strength()
            into = beside if source.acts in ("decoupled", "proximal") else through
            mine = [w for w in weights if id(w) in source.parameters]
            if not mine or not strength or (into is beside and not directly):
                continue
            for w, gradient in zip(mine, source.gradients(mine), strict=True):
                pull = strength * gradient
                into[id(w)] = into[id(w)] + pull if id(w) in into else pull
        return [through.get(id(w)) for w in weights], [beside.get(id(w)) for w in weights]

    def _inside_loss(self, weights: Sequence[Tensor]) -> list[Tensor]:
        assert self._declared is not None
        penalty, strength = self._declared
        return [strength * penalty.gradient(w) * (w.ndim > 1) for w in weights]

    def _value_inside_loss(self) -> Tensor:
        assert self._declared is not None
        penalty, strength = self._declared
        values = [penalty.value(p.detach()) for members in self._members for p in members]
        return strength * torch.stack(values).sum()

    def loss_is_pure(self, function: str) -> str | None:
        """Note that the logged loss comes straight from a loss function, without a declared penalty in it.

        Args:
            function: the loss function.

        Returns:
            What to say; None without a declared penalty.
        """
        if self._declared is None and self.term is None:
            return None
        self._logged_pure, self.probe.logged_inside = True, False
        return (
            f"the logged loss comes straight from {function} and does not hold the declared penalty, so that nothing "
            f"is taken off it; log the loss that is minimised"
        )

    def loss_below_zero(self, loss: NDArray[Any]) -> str | None:
        """Return what to say of first recorded losses below 0, after a declared penalty was taken off; else None."""
        seen = loss[np.isfinite(loss)]
        if (self._declared is None and self.term is None) or self._logged_pure or not len(seen) or seen[0] >= 0:
            return None
        return (
            f"the recorded loss begins at {seen[0]:.3g}, after the declared penalty was taken off: if it cannot be "
            f"below 0, it was logged without the penalty; log the loss that is minimised"
        )

    def _note_penalised(self) -> None:
        for acted, (source, _) in zip(self._acted, self._sources, strict=True):
            mine = [self._columns[p] for p in source.parameters if p in self._columns]
            if acted and not self._mask[mine].all():
                self._mask[mine] = True
                self._new = True

    def _label(self, source: PenaltySource, group: int) -> str:
        """Name a source as the events of the record do."""
        groups = f" in group {group}" if len(self.groups) > 1 else ""
        several = sum(s.name == source.name and g == group and s.intended for s, g in self._sources) > 1
        return f"{source.name}{groups}" + (f" on {len(source.parameters)} parameters" if several else "")

    def unknown(self) -> str:
        """Return what has to be said of decays that are not understood; empty if all are."""
        classes = [
            self.groups[g]["class"] for s, g in self._sources if s.acts == "unknown" and s.intended and g != LATER
        ]
        if not classes:
            return ""
        return (
            f"how the weight_decay of {', '.join(dict.fromkeys(classes))} acts is not known (through the gradient, or "
            f"beside it): its strength is recorded as half of weight_decay, and update sizes may be another matter"
        )

    def own_decays(self) -> dict[str, float]:
        """Return, by class of optimizer, the share of the weights that a step takes by a decay not in its groups."""
        found = {type(o).__name__: own_decay(o) for o in self._optimizers}
        return {name: share for name, share in found.items() if share}

    @property
    def name(self) -> str:
        """Word of the penalty that the record is about, as `parse_penalty` knows it."""
        attached = dict.fromkeys(
            s.name for s, _ in self._sources if s.intended and s.acts not in ("coupled", "unknown")
        )
        return "+".join(attached) if attached else "l2"

    @property
    def schedule(self) -> str:
        """Schedules as text."""
        return "+".join(dict.fromkeys(h.schedule.text for h in self._handles)) or "constant"

    @property
    def ours(self) -> bool:
        """Whether something of gradscope acts at the steps, beside the optimizer."""
        return bool(self._handles)

    @property
    def steered(self) -> bool:
        """Whether a strength follows the training loss."""
        return any(handle.schedule.measures_every for handle in self._handles)

    def sources(self) -> list[dict[str, Any]]:
        """Return what acts where, for the record's `capture`."""
        return [
            {"penalty": s.name, "group": group, "acts": s.acts, "parameters": len(s.parameters)}
            | ({"note": s.note} if s.note else {})
            for s, group in self._sources
        ]

    def penalised(self) -> NDArray[np.bool_]:
        """Return whether a penalty acts on each parameter, has acted, or is going to, [parameters]."""
        return self._mask.copy()

    def newly_acting(self) -> bool:
        """Return True, once, after penalties that had never acted have begun to."""
        new = self._new
        self._new = False
        return new

    def check(self) -> None:
        """Check that no schedule lacks what it counts by; else raise `InputError`."""
        for handle in self._handles:
            handle.now()

    def set_epoch(self, epoch: int) -> None:
        """Tell the schedules the number of the epoch."""
        for handle in self._handles:
            handle.epoch = epoch

    def begin_at(self, step: int) -> None:
        """Count what the environment put on from this step: the run goes on after a checkpoint."""
        for handle in self._handles:
            if handle.temporary:
                handle.begin_at(step)

    def grown(self) -> bool:
        """Return whether there are parameter groups whose strength and learning rate the record has no place for."""
        return any(LATER in places for places in self.places.places)

    def waiting(self) -> bool:
        """Return whether a schedule needs the active phase to be seen."""
        return any(handle.schedule.needs_record for handle in self._handles)

    def active_phase(self, step: int) -> None:
        """Let schedules that waited for the active phase begin: the run is learning."""
        for handle in self._handles:
            handle.active_phase()

    def observe(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Show controllers what the loop logs: ``loss``, and ``error`` or else 1 − ``accuracy``."""
        loss = scalars.get("loss")
        if loss is None:
            return
        error = scalars.get("error")
        if error is None and "accuracy" in scalars:
            error = 1 - scalars["accuracy"]
        for handle in self._handles:
            if handle.schedule.measures_every:
                handle.observe(loss=loss, error=error)

    def detach(self) -> None:
        """Remove what the environment put on, and leave the script's own penalties as they were."""
        for undo in reversed(self._undo):
            undo()
        self._undo = []
