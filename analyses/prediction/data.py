"""What was collected, in one file: python -m analyses.prediction.data --cache FOLDER packs it into probes.npz.

Rows are kept as shares of their largest in half precision, which is a thousandth of a decade; sums of sizes at the
first row alone, where they are needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.prediction.configurations import HORIZON, Configuration, benchmark, configurations
from analyses.prediction.training import rate
from gradscope.prediction.rows import Probe

HERE = Path(__file__).parent
FILE = HERE / "probes.npz"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A configuration with its level. ``probes``: (log₁₀(λ/λ*), its rows); ``late``: the same in averaged rows.

    ``free``: a run without a penalty. ``low``, ``high``: the level's own 95 % interval. ``level`` is NaN where there is
    none, as in normalised nets. ``escape``: steps to it; ``known``: the level is another study's.
    """

    configuration: Configuration
    level: float
    low: float
    high: float
    learns: bool
    escape: float
    known: bool
    trials: list[tuple[float, bool]]
    free: tuple[Probe, ...]
    probes: tuple[tuple[float, Probe], ...]
    late: tuple[tuple[float, Probe], ...]
    every: int


def pack(cache: Path) -> None:
    """All files of the cache into one."""
    arrays: dict[str, Any] = {}
    told: list[dict[str, Any]] = []
    for path in sorted(p for p in cache.glob("*.npz") if ".part" not in p.name):
        with np.load(path) as held:
            facts = json.loads(str(held["facts"]))
            number = len(told)
            for name in ("", "late-"):
                if name + "sizes" in held:
                    _pack(arrays, f"{number}.{name}", held[name + "loss"], held[name + "sizes"])
        told.append(facts)
    arrays["facts"] = json.dumps(told)
    np.savez_compressed(FILE, **arrays)


def _pack(arrays: dict[str, Any], name: str, loss: Array, sizes: Array) -> None:
    rows = sizes[:, :, :3].astype(np.float64)  # [R, T, 3, P]
    rows[~np.isfinite(rows)] = np.inf
    largest = np.abs(np.where(np.isfinite(rows), rows, 0)).max(1)
    arrays[name + "scale"] = np.maximum(largest, 1e-30).astype(np.float32)
    arrays[name + "rows"] = (rows / arrays[name + "scale"][:, None]).astype(np.float16)
    arrays[name + "sums"] = sizes[:, 0, 3:].astype(np.float32)
    arrays[name + "loss"] = loss.astype(np.float32)


def cases() -> list[Case]:
    """Everything that was packed, in the order of the configurations' numbers."""
    known = {c.key: c for c in (*configurations(), *benchmark())}
    with np.load(FILE) as file:
        held = dict(file)
    found = []
    for number, facts in enumerate(json.loads(str(held["facts"]))):
        found.append(_case(known[facts["key"]], facts, held, number))
    return found


def _case(c: Configuration, facts: dict[str, Any], held: dict[str, Any], number: int) -> Case:
    level = facts["level"]
    inside = bool(level.get("determined"))
    if inside and level["trials"]:  # a level beyond all that was tried is an extrapolation
        tried = [strength for strength, _ in level["trials"]]
        inside = min(tried) < level["tolerance"] < max(tried)
    probes = list(_probes(c, facts, held, f"{number}.", 1))
    every = facts.get("late", {}).get("every", 1)
    late = list(_probes(c, facts, held, f"{number}.late-", every)) if every > 1 else []
    chosen = facts.get("late", {}).get("chosen", [])
    return Case(
        configuration=c,
        level=level["tolerance"] if inside else float("nan"),
        low=level["low"] if inside else float("nan"),
        high=level["high"] if inside else float("nan"),
        learns=bool(level.get("learns", True)),
        escape=float(facts.get("escape", float("nan"))),
        known=c.number >= 890,
        trials=[(float(s), bool(f)) for s, f in level.get("trials", [])],
        free=tuple(probes[:2]),
        probes=tuple(zip(facts["places"], probes[2:], strict=True)),
        late=tuple((facts["places"][i - 2], p) for i, p in zip(chosen, late, strict=False) if i >= 2),
        every=every,
    )


def _probes(c: Configuration, facts: dict[str, Any], held: dict[str, Any], name: str, every: int) -> Iterator[Probe]:
    if name + "rows" not in held:
        return
    scale = held[name + "scale"].astype(np.float64)
    numel = np.array(facts["numel"], dtype=np.float64)
    chosen = facts["late"]["chosen"] if every > 1 else range(len(facts["strengths"]))
    for run, index in enumerate(chosen):
        rows = held[name + "rows"][run].astype(np.float64) * scale[run][None]
        count = len(rows)
        sums = held[name + "sums"][run].astype(np.float64) / numel
        steps = np.arange(1, count + 1, dtype=np.float64) * every - 1
        rates = [np.mean([rate(c.decay, (k * every + j) / HORIZON) for j in range(every)]) for k in range(count)]
        yield Probe(
            step=np.asarray(steps, dtype=np.float64), loss=held[name + "loss"][run].astype(np.float64),
            gradient=rows[:, 0], weight=rows[:, 1], dot=rows[:, 2],
            gradient_size=np.tile(sums[0], (count, 1)), weight_size=np.tile(sums[1], (count, 1)),
            numel=numel, rate=c.lr * np.array(rates), strength=float(facts["strengths"][index]), penalty=c.penalty,
            momentum=c.momentum, adaptive=c.optimizer.startswith("adam"),
            beside=c.optimizer == "adamw" or c.penalty == "l1", baseline=float(facts["baseline"]),
            optimizer={"adam": "Adam", "adamw": "AdamW"}.get(c.optimizer, "SGD"),
        )  # fmt: skip


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    pack(parser.parse_args().cache)
    found = cases()
    levels = sum(np.isfinite(c.level) for c in found)
    print(f"{len(found)} configurations, {levels} with a level; {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
