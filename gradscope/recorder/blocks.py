"""Assembles the blocks of a record from what the rings held and what the host knows of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.recorder.kernels.magnitude_bins import COLUMNS
from gradscope.recorder.meter import Meter
from gradscope.recorder.probe import PenaltyProbe
from gradscope.recorder.rows import (
    Block,
    Floats,
    HostRow,
    factor_of_change,
    group_variables,
    parameter_variables,
    whole_change,
)
from gradscope.recorder.updates import Updates

Tables = Mapping[torch.device, dict[str, NDArray[np.float32]]]

#: Two norms of the same numbers, taken by different kernels, agree to this share.
SAME = 1e-5

#: Rows whose clipping by value is kept.
CUTS = 64

#: Quantities of the parameter table that carry the factor of a GradScaler, if the gradients do.
SCALED = ("gradient_l1", "gradient_norm", "gradient_max", "dot")


class Assembly:
    """From host rows and tables to the variables of the schema. Knows the layout of one set of rings."""

    def __init__(
        self,
        probe: PenaltyProbe,
        quantities: Sequence[str],
        numel: Floats,
        meters: Sequence[Meter],
        updates: Mapping[int, Updates],
        activations: Sequence[str] = (),
    ) -> None:
        self._activations = activations
        self._probe, self._quantities, self._numel = probe, list(quantities), numel
        self._meters, self._updates = list(meters), updates
        self._scaled = [i for i, name in enumerate(quantities) if name in SCALED]
        self._norm = self._quantities.index("gradient_norm")
        self._last_norms: dict[int, Floats] = {}
        self._cuts: list[float] = []  # what clipping by value has left of the norm, in the first rows that had any
        self._looked_at = 0
        self.inexact: dict[str, str] = {}  # logged names whose values float32 does not hold, and the first of them

    @property
    def cut_by_value(self) -> float:
        """What is left of the norm, on average, where gradients are clipped by value in most rows; else NaN."""
        often = len(self._cuts) >= max(1.0, 0.5 * min(self._looked_at, CUTS))
        return float(np.exp(np.mean(np.log(self._cuts)))) if often else np.nan

    def block(self, hosts: Sequence[HostRow], tables: Tables) -> Block:
        """The rows ``hosts`` as variables, [n, …] each."""
        n = len(hosts)
        home = next(iter(tables.values()))
        strengths = np.array([row.strengths for row in hosts], dtype=np.float64).reshape(n, -1)
        table, clip, overflow = self._parameters(hosts, tables)
        block: Block = {
            "step": np.array([row.step for row in hosts], dtype=np.int64),
            "epoch": np.array([row.epoch for row in hosts], dtype=np.int32),
            "time": np.array([row.time for row in hosts], dtype=np.float64),
            "skipped": (np.array([row.skipped for row in hosts]) | overflow).astype(np.int8),
            "clip_coefficient": clip.astype(np.float32),
        }
        for row, rates in zip(hosts, home["rates"], strict=True):
            row.rates = [float(on) if off is None else off for off, on in zip(row.rates, rates, strict=True)]
        block |= group_variables(hosts, self._probe.terms, len(hosts[0].rates))
        measured = {
            i: home[f"penalty{i}"].astype(np.float64) for i, t in enumerate(self._probe.terms) if t.shares is None
        }
        block |= parameter_variables(table, self._quantities, self._numel, strengths, self._probe.terms, measured)
        block |= self._update_variables(hosts, tables)
        block |= self._histogram_variables(hosts, tables)
        if "activations" in home:
            block |= self._activation_variables(hosts, home)
        for name, values in scalar_columns(hosts, home).items():
            block[name], lost = in_float32(values)
            if lost:
                self.inexact.setdefault(name, lost)
        if "inside" in home and "loss" in block and self._probe.logged_inside:
            block["loss"] = block["loss"] - home["inside"][:, 0]
        return block

    def _parameters(self, hosts: Sequence[HostRow], tables: Tables) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """The table of all parameters [N, Q, P], the clip coefficient [N], whether a fused step skipped itself [N]."""
        n = len(hosts)
        table = np.full((n, len(self._quantities), len(self._numel)), np.nan)
        before, after = [], []
        known, overflow, moved = np.ones(n, dtype=bool), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        for meter in self._meters:
            taken = [row.taken.get(meter.number) for row in hosts]
            here = np.array([t is not None for t in taken])
            mine, columns = tables[meter.device], np.array(meter.columns)
            part = mine[meter.table].astype(np.float64)
            scale = np.where([bool(t and t.scaled) for t in taken], mine[meter.scale][:, 0], 1.0).astype(np.float64)
            part[:, self._scaled] /= scale[:, None, None]
            table[np.flatnonzero(here)[:, None], :, columns] = part[here].transpose(0, 2, 1)
            known &= [t is None or t.early for t in taken]
            overflow |= np.where([bool(t and t.overflow) for t in taken], mine[meter.overflow][:, 0] > 0, False)
            norms = np.where(here[:, None], part[:, self._norm], 0.0)
            changed = np.array([bool(t and t.modified) for t in taken])
            still = np.where([bool(t and t.still_scaled) for t in taken], scale, 1.0)
            before.append(norms)
            looked = np.array([bool(t and t.looked) for t in taken])
            found = mine[meter.after][:, 0] / still[:, None]
            with np.errstate(invalid="ignore"):
                silent = looked & ~np.isclose(found, norms, rtol=SAME, atol=0, equal_nan=True).all(1)
            if silent.any() and meter.past_counters is None:
                meter.past_counters = hosts[int(np.flatnonzero(silent)[0])].step
            after.append(np.where((changed | silent)[:, None], found, norms))
            moved |= changed | silent
        clip = np.ones(n)
        if moved.any():
            norms, left = np.concatenate(before, 1)[moved], np.concatenate(after, 1)[moved]
            clip[moved] = factor_of_change(norms, left)
            whole = whole_change(norms, left)[np.isnan(clip[moved]) & known[moved]]
            self._cuts.extend(whole[(whole > 0) & (whole < 1)][: CUTS - len(self._cuts)].tolist())
        self._looked_at += n
        return table, np.where(known, clip, np.nan), overflow

    def _update_variables(self, hosts: Sequence[HostRow], tables: Tables) -> Block:
        """Update sizes, the penalty's share of them, and the coherence of successive gradients, [N, P] each."""
        if not self._updates:
            return {}
        n, p = len(hosts), len(self._numel)
        size, share, cosine = np.full((n, p), np.nan), np.full((n, p), np.nan), np.full((n, p), np.nan)
        for meter in self._meters:
            updates, mine = self._updates[meter.number], tables[meter.device]
            # A skipped step moved nothing; where its hooks never ran, nothing was written either.
            here = np.array([row.updates and meter.number in row.taken and not row.skipped for row in hosts])
            columns, rows = np.array(meter.columns), np.flatnonzero(here)[:, None]
            numel = np.maximum(self._numel[columns], 1.0)
            size[rows, columns] = (mine[updates.size][:, 0] / numel)[here]
            if updates.knows_split:
                loss, penalty = mine[updates.split][:, 0].astype(np.float64), mine[updates.split][:, 1]
                with np.errstate(divide="ignore", invalid="ignore"):
                    share[rows, columns] = (loss / (loss + penalty))[here]
            for i in np.flatnonzero(here):
                norm = mine[meter.table][i, self._norm].astype(np.float64)  # scaled as ``along`` is
                last = self._last_norms.get(meter.number)
                raw = mine[updates.along][i, 0].astype(np.float64)
                if last is not None:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        cosine[i, columns] = raw / (norm * last)
                self._last_norms[meter.number] = norm
        names = ("update_mean_abs", "update_proportion", "gradient_coherence")
        return {name: values.astype(np.float32) for name, values in zip(names, (size, share, cosine), strict=True)}

    def _histogram_variables(self, hosts: Sequence[HostRow], tables: Tables) -> Block:
        """[N, P, bins]; NaN in rows that were not sampled."""
        if not self._updates:
            return {}
        found: Block = {}
        for name, field in (("weight_histogram", "weight_bins"), ("loss_gradient_histogram", "gradient_bins")):
            whole = np.full((len(hosts), len(self._numel), COLUMNS), np.nan, dtype=np.float32)
            for meter in self._meters:
                here = np.flatnonzero([row.histograms and meter.number in row.taken for row in hosts])
                counts = tables[meter.device][f"{field}{meter.number}"]
                whole[here[:, None], np.array(meter.columns)] = counts[here]
            found[name] = whole
        return found

    def _activation_variables(self, hosts: Sequence[HostRow], home: Mapping[str, NDArray[np.float32]]) -> Block:
        sampled = np.array([row.sampled for row in hosts])
        table = np.where(sampled[:, None, None], home["activations"], np.float32(np.nan))
        found: Block = {name: table[:, i] for i, name in enumerate(self._activations)}
        if "units" in home and home["units"].shape[1]:  # else no module whose units can be told
            found["activation_unit_mean_abs"] = np.where(sampled[:, None], home["units"], np.float32(np.nan))
        return found


def scalar_columns(hosts: Sequence[HostRow], home: Mapping[str, NDArray[np.float32]]) -> dict[str, Floats]:
    """One column a logged name, [n]; NaN where it was not logged."""
    names = dict.fromkeys(name for row in hosts for name in (*row.values, *row.cells))
    columns = {name: np.full(len(hosts), np.nan) for name in names}
    for i, row in enumerate(hosts):
        for name, value in row.values.items():
            columns[name][i] = value
        for name, (chunk, place) in row.cells.items():
            columns[name][i] = home[f"cells{chunk}" if chunk else "cells"][i, place]
    return columns


def in_float32(values: Floats) -> tuple[NDArray[np.float32], str]:
    """The values as a record keeps them, and what is lost: a whole number by more than 0, anything beyond the range."""
    with np.errstate(over="ignore"):
        kept = values.astype(np.float32)
    changed = np.isfinite(values) & (kept != values) & ((values == np.floor(values)) | np.isinf(kept))
    if not changed.any():
        return kept, ""
    first = np.flatnonzero(changed)[0]
    return kept, f"{values[first]:.17g} is kept as {float(kept[first]):.17g}"
