"""More numbers of each recorded probe than a reader is told, for attempts at a better one (four core-minutes).

`python -m analyses run prediction --only widen --cache FOLDER` trains the probes of probes.npz again, the same rows to
the last digits, and writes wider.npz.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.common.study import Options
from analyses.prediction.configurations import HORIZON, Configuration
from analyses.prediction.data import FILE as PACKED
from analyses.prediction.data import as_asked, cases, recorded, usable
from analyses.prediction.fit import of_kind
from analyses.prediction.training import probes
from gradscope.prediction.features import SMOOTH, features, smoothed
from gradscope.prediction.rows import Probe
from gradscope.types import InputError

FILE = Path(__file__).parent / "results" / "wider.npz"
ROWS = 40
#: Shares of the baseline whose first crossing counts, beside those of a reader.
CROSSINGS = (0.95, 0.55, 0.25)
#: Probes trained again are the recorded ones where their features agree so well in the median.
AGREE = 1e-3

Array = NDArray[np.float64]
#: What is new, by what it is about.
GROUPS = {
    "losses": ("root_loss", "log_loss", "log_lowest", "gained_slope", "gained", "gained_slope_all",
               *(f"crossing_{share}" for share in CROSSINGS), "gained_since_first"),
    "layers": ("weight_slope_least", "weight_slope_most", "gradient_slope_least", "gradient_slope_mean",
               "weight_change_product", "gradient_change_mean", "gradient_change_most", "balance_least",
               "balance_most"),
    "readout": ("balance_log", "balance_slope", "crossing_time", "pulls_mean", "pull_last", "pull_slope", "pull_first",
                "pull_least", "pull_ahead"),
    "chain": ("dots_spread", "dots_spread_last", "products_spread", "cosine", "dot_of_loss", "dot_of_loss_each",
              "dot_of_loss_first"),
    "rates": ("rate", "descent", "descent_last", "noise", "gradient_noise"),
}  # fmt: skip
NAMES = tuple(name for group in GROUPS.values() for name in group)


def _log(x: Any) -> Any:
    return np.log(np.maximum(np.abs(x), 1e-30))


def _slope(x: Array, y: Array) -> float:
    x = x - x.mean()
    square = float((x**2).sum())
    return float(np.clip((x * (y - y.mean())).sum() / square, -50, 50)) if square > 0 else 0.0


def wide(probe: Probe) -> Array:
    """The numbers of `NAMES`, [F]: times in the penalty's own time, losses in shares of the baseline."""
    found = (*_losses(probe), *_layers(probe), *_readout(probe), *_chain(probe), *_rates(probe))
    return np.clip(np.nan_to_num(np.array(found, dtype=np.float64), posinf=50, neginf=-50), -50, 50)


def _third(probe: Probe) -> slice:
    rows = len(probe.step)
    return slice(rows - max(rows // 3, 4), rows)


def _losses(probe: Probe) -> list[float]:
    """A loss's root and log, and what was gained of the baseline: an escape grows by a rate, whatever the loss is."""
    third, time, tau = _third(probe), probe.step + 1, probe.folding
    loss = smoothed(probe.loss) / probe.baseline
    gained = _log(np.maximum(1 - loss, 1e-3))
    crossings = []
    for share in CROSSINGS:
        below = np.flatnonzero(loss[SMOOTH - 1 :] < share)
        at = time[below[0] + SMOOTH - 1] if len(below) else 1.7 * (time[-1] + 3) - 3
        crossings.append(float(_log((at + 3) / tau)))
    return [
        math.sqrt(max(min(loss[-1], 5), 0)), _log(loss[-1]), _log(loss[SMOOTH - 1 :].min()),
        _slope(time[third] / tau, gained[third]), gained[-1], _slope(time / tau, gained), *crossings,
        loss[SMOOTH - 1] - loss[-1],
    ]  # fmt: skip


def _layers(probe: Probe) -> list[float]:
    """The least, the greatest and the product over the matrices, where a reader has their sum of squares."""
    third, time, tau = _third(probe), (probe.step + 1)[_third(probe)], probe.folding
    w, g = probe.weight, probe.gradient
    weights = [_slope(time / tau, column) for column in _log(w[third]).T]
    gradients = [_slope(time / tau, column) for column in _log(g[third]).T]
    shrunk, grown = (_log(x[third].mean(0) / np.maximum(x[:SMOOTH].mean(0), 1e-30)) for x in (w, g))
    balance = np.median((-probe.dot / np.maximum(2 * probe.strength * w**2, 1e-30))[third], 0)
    return [
        min(weights), max(weights), min(gradients), float(np.mean(gradients)), float(np.arcsinh(shrunk.sum())),
        grown.mean(), grown.max(), float(np.arcsinh(balance.min())), float(np.arcsinh(balance.max())),
    ]  # fmt: skip


def _readout(probe: Probe) -> list[float]:
    """Whether the loss's pull will outgrow the penalty's: both ways to measure it, its trend, and where that leads."""
    third, time, tau = _third(probe), probe.step + 1, probe.folding
    w, g = probe.weight, probe.gradient
    push = 2 * probe.strength * w**2
    five = np.full(SMOOTH, 1 / SMOOTH)
    balance = np.convolve(-probe.dot.sum(1) / np.maximum(push.sum(1), 1e-30), five, "valid")
    logs, count = _log(np.maximum(balance, 1e-3)), len(balance)
    last = slice(count - max(count // 3, 4), count)
    at, slope = float(logs[last].mean()), _slope(time[SMOOTH - 1 :][last] / tau, logs[last])
    pull = _log(np.sqrt((g**2).sum(1)) / np.maximum(2 * probe.strength * np.sqrt((w**2).sum(1)), 1e-30))
    trend = _slope(time[third] / tau, pull[third])
    crossing = float(np.clip(-at / slope if abs(slope) > 1e-3 else -12 * np.sign(at), -12, 12))
    each = float(_log(g[third] / np.maximum(2 * probe.strength * w[third], 1e-30)).mean())
    return [at, slope, crossing, each, pull[third].mean(), trend, pull[:SMOOTH].mean(),
            np.convolve(pull, five, "valid").min(), pull[third].mean() + 3 * trend]  # fmt: skip


def _chain(probe: Probe) -> list[float]:
    """How unlike ⟨w, g⟩ is from matrix to matrix: in a chain of ReLU layers it is the same in each."""
    third, dot = _third(probe), probe.dot

    def spread(values: Array) -> float:
        return float(np.log(np.std(values) / (np.abs(values).mean() + 1e-30) + 1e-3))

    cosines = dot[:8] / np.maximum(probe.gradient[:8] * probe.weight[:8], 1e-30)
    return [
        spread(np.median(-dot[:8], 0)), spread(-dot[third].mean(0)),
        spread(probe.gradient[:SMOOTH].mean(0) * probe.weight[0]),
        float(_log(np.sqrt((cosines**2).mean(0)) * np.sqrt(probe.numel)).mean()),
        *(float(np.arcsinh(10 * x / probe.baseline))
          for x in (-dot[third].sum(1).mean(), -dot[third].mean(), np.abs(dot[:SMOOTH]).mean())),
    ]  # fmt: skip


def _rates(probe: Probe) -> list[float]:
    """The rate with the gain of momentum, what descent would gain in the penalty's own time, and noise."""
    third = _third(probe)
    norm = np.sqrt((probe.gradient**2).sum(1))
    rate = float(np.nanmean(probe.rate)) / (1.0 if probe.adaptive else 1 - min(probe.momentum, 0.9999))
    descents = [_log(rate * (norm[part] ** 2).mean() * probe.folding / probe.baseline) for part in (slice(5), third)]
    return [math.log(rate), *descents, _log(np.std(np.diff(probe.loss[third])) / probe.baseline + 1e-4),
            _log(np.std(np.diff(_log(norm[third]))) + 1e-4)]  # fmt: skip


def again(c: Configuration, facts: dict[str, Any]) -> dict[str, Any]:
    """The rows of a configuration's probes, as `analyses.prediction.collect` made them."""
    strengths, seeds = facts["strengths"], [1, 2, *range(2000, 2000 + len(facts["places"]))]
    found: dict[str, Any] = {}
    found["loss"], found["sizes"] = probes(c, strengths, seeds, ROWS)
    if facts.get("seen-late"):
        every = math.ceil(min(2 * facts["escape"], HORIZON) / ROWS)
        chosen = [0, 1, *range(2, len(strengths), 2)]
        loss, sizes = probes(c, [strengths[i] for i in chosen], [seeds[i] for i in chosen], ROWS * every)
        shape = (len(chosen), ROWS, every)
        found["late-loss"], found["late-sizes"] = loss.reshape(shape).mean(2), sizes.reshape(*shape, *sizes.shape[2:])
        found["late-sizes"] = found["late-sizes"].mean(2)
        found["late"] = json.dumps({"every": every, "chosen": chosen})
    return found


def widen(asked: Options) -> None:
    """Train the probes again that the cache does not hold, and write `FILE`; raise `InputError` for other ones."""
    if (cache := asked.more["cache"]) is None:
        raise InputError("--cache is missing; expected a folder for a file a configuration")
    cache.mkdir(parents=True, exist_ok=True)
    with np.load(PACKED) as file:
        packed = {facts["key"]: facts for facts in json.loads(str(file["facts"]))}
    arrays: dict[str, Any] = {}
    for case in of_kind(cases(), "direct"):
        c = case.configuration
        facts, path = packed[c.key], cache / f"{c.key}.npz"
        if not path.exists():
            np.savez(path, **again(c, facts))
        with np.load(path) as held:
            rows = dict(held)
        _, _, *under = recorded(c, facts, rows["loss"], rows["sizes"], range(len(facts["strengths"])), 1)
        made = [probe for probe in map(as_asked, under) if usable(probe)]
        apart = np.abs([features(probe) - seen.features for probe, seen in zip(made, case.probes, strict=True)])
        if np.median(apart) > AGREE:
            raise InputError(f"{c.key}: the probes trained again are not the recorded ones")
        arrays[f"{c.key}.probes"] = np.stack([wide(probe) for probe in made]).astype(np.float16)
        if "late" in rows:
            late = json.loads(str(rows["late"]))
            slow = list(recorded(c, facts, rows["late-loss"], rows["late-sizes"], late["chosen"], late["every"]))[2:]
            if fit := [wide(probe) for probe in slow if usable(probe)]:
                arrays[f"{c.key}.late"] = np.stack(fit).astype(np.float16)
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE}: {len(arrays)} tables, {FILE.stat().st_size} bytes")
