"""Signals for or against a failure at one moment: a few dimensionless numbers, whatever the task and the optimizer.

Slopes are changes from one window to the next, each half an e-folding time of the penalty long as soon as the run is
long enough for that. Signals change places with time (`facts`: the proportion speaks first and misleads later), so they
are read by *phase*: how many e-folding times the penalty has acted.
"""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis import measures
from gradscope.diagnosis.run_prefix import RunPrefix
from gradscope.diagnosis.series import Array, Series

#: Upper ends of the phases, in e-folding times; "off" comes before them, "later" after.
PHASES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

#: The signals and what they need beyond mean |∂L/∂w| and mean |w|: a baseline that is sure, activations, ⟨w, ∂L/∂w⟩.
SIGNALS: dict[str, str] = {
    "proportion": "",  # ln(mean|g| / mean|r|)
    "proportion_slope": "",
    "gradient_slope": "",  # of ln mean|g|
    "free_fall": "",  # the rate at which weights shrink, over that of the penalty alone
    "gap": "loss",  # share of the baseline loss that is gone
    "gap_slope": "loss",
    "signal": "activations",  # ln of the last module's activation_std over its maximum so far
    "signal_share": "activations",  # ln of it over the mean size of the output
    "signal_slope": "activations",
    "balance": "balance",  # radial balance
    "balance_slope": "balance",
}


def phase(look: RunPrefix) -> str:
    """Return the phase: ``off`` without a penalty so far, else the upper end in e-folding times, or ``later``."""
    if not np.nan_to_num(look.series.strength[: look.n]).any():
        return "off"
    elapsed = measures.e_foldings(look.series, look.n)
    return next((f"{end:g}" for end in PHASES if elapsed < end), "later")


def signals(look: RunPrefix) -> dict[str, float]:
    """Compute every signal by name; NaN where the record does not hold what it takes."""
    s, n = look.series, look.n
    now, before = measures.last_windows(s, n, look.limits.window)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(_mean(s.gradient, now) / _mean(s.penalty, now))
        earlier = np.log(_mean(s.gradient, before) / _mean(s.penalty, before))
        found = {
            "proportion": ratio,
            "proportion_slope": ratio - earlier,
            "gradient_slope": np.log(_mean(s.gradient, now) / _mean(s.gradient, before)),
            "free_fall": _free_fall(s, n, before.start),
            **_of_loss(look, now, before),
            **_of_activations(s, n, now, before),
            **_of_balance(s, now, before),
        }
    return {name: float(value) if np.isfinite(value) else np.nan for name, value in found.items()}


def _mean(values: Array, part: slice) -> np.float64:
    here = values[part]
    here = here[np.isfinite(here)]
    return np.float64(here.mean() if here.size else np.nan)  # not a float: 1/0 is infinite here


def _free_fall(s: Series, n: int, start: int) -> float:
    """Compute the rate of shrinking over that of the penalty alone: 1 as without a loss, 0 held, negative growing."""
    size = measures.weight_size(s, n)
    alone = measures.e_foldings(s, n) - measures.e_foldings(s, start + 1)
    return float(np.log(size[start] / size[n - 1]) / alone) if alone > 0 else np.nan


def _of_loss(look: RunPrefix, now: slice, before: slice) -> dict[str, float]:
    # The first percents decide between chance and learning, so the scale is finest around 0.
    s, baseline = look.series, np.float64(look.baseline.loss)
    level, earlier = (measures.loss_level(s, part.start, part.stop) for part in (now, before))
    return {
        "gap": np.arcsinh((baseline - level) / abs(baseline) / 0.01),
        "gap_slope": np.arcsinh((earlier - level) / abs(baseline) / 0.01),
    }


def _of_activations(s: Series, n: int, now: slice, before: slice) -> dict[str, float]:
    known = np.flatnonzero(np.isfinite(s.signal[:n]))
    if not len(known):
        return dict.fromkeys(("signal", "signal_share", "signal_slope"), np.nan)
    last, tiny = known[-1], 1e-12
    return {
        "signal": np.log((s.signal[last] + tiny) / (s.signal[known].max() + tiny)),
        "signal_share": np.log((s.signal[last] + tiny) / (s.output[last] + tiny)),
        "signal_slope": np.log((_mean(s.signal, now) + tiny) / (_mean(s.signal, before) + tiny)),
    }


def _of_balance(s: Series, now: slice, before: slice) -> dict[str, float]:
    balance, earlier = measures.radial_balance(s, now), measures.radial_balance(s, before)
    return {
        "balance": np.arcsinh(balance / 0.1),
        "balance_slope": np.arcsinh(balance / 0.1) - np.arcsinh(earlier / 0.1),
    }


def available(look: RunPrefix) -> frozenset[str]:
    """Return which of the needs in `SIGNALS` this record meets."""
    s, n = look.series, look.n
    met = {
        "loss": look.baseline.sure and bool(np.isfinite(s.loss[:n]).any()),
        "activations": bool(np.isfinite(s.signal[:n]).any()),
        "balance": bool(np.isfinite(s.pull[:n]).any() and np.isfinite(s.weight_square[:n]).any()),
    }
    return frozenset(name for name, ok in met.items() if ok)
