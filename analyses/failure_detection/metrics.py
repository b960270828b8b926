"""The figures of merit with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, rankdata

from analyses.failure_detection import records
from analyses.failure_detection.baselines import RULES

OTHERS = (*RULES, "median pruner")
FAILING = ("collapsed", "stalled", "diverged", "vanishing")


def share(k: int, n: int) -> str:
    """k of n with the 95 % Clopper-Pearson interval, in percent."""
    if not n:
        return "none to count"
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{100 * k / n:.1f} % ({k} of {n}; {100 * low:.1f} to {100 * high:.1f})"


def area(failed: Any, score: Any) -> float:
    """The area under the ROC curve: how often a failed run scores higher than one that learned."""
    k, n = int(failed.sum()), len(failed)
    return float((rankdata(score)[failed].sum() - k * (k + 1) / 2) / (k * (n - k)))


def auroc(failed: Any, score: Any, repeats: int = 300) -> str:
    """With a 95 % bootstrap interval over runs."""
    failed, score = np.asarray(failed, dtype=bool), np.nan_to_num(np.asarray(score, dtype=float), nan=0.0)
    if failed.all() or not failed.any():
        return "needs both outcomes"
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(repeats):
        pick = random.integers(len(failed), size=len(failed))
        if failed[pick].any() and not failed[pick].all():
            drawn.append(area(failed[pick], score[pick]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{area(failed, score):.3f} ({low:.3f} to {high:.3f}; {len(failed)} runs)"


def at_step(looks: pd.DataFrame, steps: pd.Series) -> pd.Series:
    """The probability of every run at the last look within this many steps; NaN where there was none yet."""
    known = looks[looks["n"] <= looks["run"].map(steps)]
    return known.groupby("run")["probability"].last()


def calibration_error(failed: Any, probability: Any, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width."""
    failed, probability = np.asarray(failed, dtype=float), np.asarray(probability, dtype=float)
    at = np.minimum((probability * bins).astype(int), bins - 1)
    return float(sum(abs(failed[at == b].mean() - probability[at == b].mean()) * (at == b).mean() for b in set(at)))


def balanced_accuracy(verdicts: pd.DataFrame) -> float:
    """Of the live verdicts, over runs that learned and runs that collapsed or diverged."""
    said = verdicts["live"].isin(FAILING)
    caught = said[verdicts["cause"].isin(("collapsed", "diverged"))].mean()
    return float((caught + (~said[~verdicts["failed"]]).mean()) / 2)


def latency(verdicts: pd.DataFrame) -> pd.Series:
    """Steps from onset or switch-on to the decision, of the failures that were caught."""
    caught = verdicts[verdicts["cause"].isin(("collapsed", "diverged")) & verdicts["decided_step"].notna()]
    return (caught["decided_step"] - caught["began"]).clip(lower=0) / caught["steps"]


def rule_line(verdicts: pd.DataFrame, fired: pd.Series) -> str:
    """False alarms, catches and delay of a rule; ``fired``: steps, NaN where it did not."""
    healthy = verdicts[~verdicts["failed"]]
    bad = verdicts[verdicts["cause"].isin(("collapsed", "diverged"))]
    hit = fired[bad.index].notna()
    late = ((fired[bad.index] - bad["began"]).clip(lower=0) / bad["steps"])[hit]
    delay = f"{100 * late.median():.1f} %" if len(late) else "never"
    false = int(fired[healthy.index].notna().sum())
    return f"{share(false, len(healthy))} | {share(int(hit.sum()), len(bad))} | {delay}"


def near_table(verdicts: pd.DataFrame, looks: pd.DataFrame) -> list[str]:
    """AUROC within ±6 % of λ*, by epochs and by e-folding times, beside λ alone."""
    near = verdicts[verdicts["stratum"] == "near"].set_index("run")
    lines = ["| after | judge | λ/λ* alone |", "|---|---|---|"]
    for count in (1, 2, 3, 6):
        p = at_step(looks, near["batches"] * count).reindex(near.index)
        ok = p.notna() & (near["batches"] * count <= near["steps"])
        alone = auroc(near["failed"][ok], (near["strength"] / near["tolerance"])[ok])
        lines.append(f"| {count} epochs | {auroc(near['failed'][ok], p[ok])} | {alone} |")
    for label in ("0.5", "1", "2", "4", "8"):
        p = looks[looks["phase"] == label].groupby("run")["probability"].last().reindex(near.index)
        ok = p.notna()
        alone = auroc(near["failed"][ok], (near["strength"] / near["tolerance"])[ok])
        lines.append(f"| {label} e-folding times | {auroc(near['failed'][ok], p[ok])} | {alone} |")
    return lines


def calibration_sample(looks: pd.DataFrame) -> pd.DataFrame:
    """The last look of every run in every phase: what a user would be told then."""
    return looks.groupby(["run", "phase"], as_index=False).last()


def share_called(verdicts: pd.DataFrame, members: pd.Series) -> str:
    """How many of these runs were called a failure before their horizon."""
    return share(int((members & verdicts["live"].isin(FAILING)).sum()), int(members.sum()))


def comparison(verdicts: pd.DataFrame) -> list[str]:
    """The judge beside the rules of others."""
    judged = verdicts["decided_step"].where(verdicts["live"].isin(FAILING))
    return [
        "| | false alarms per run | collapsed and diverged runs caught | median delay, share of the horizon |",
        "|---|---|---|---|",
        f"| **judge, family held out** | {rule_line(verdicts, judged)} |",
        *(f"| {name} | {rule_line(verdicts, verdicts[name])} |" for name in OTHERS),
    ]


def facts(verdicts: pd.DataFrame, looks: pd.DataFrame, folder: Path) -> list[str]:
    """Everything that is one number."""
    late, cause = latency(verdicts), verdicts["cause"]
    whole = pd.read_csv(folder / "in_sample.csv", comment="#")
    steps = (late * verdicts["steps"].reindex(late.index)).median()
    hard = (verdicts["stratum"] == "hard") & ~verdicts["failed"]
    sample = calibration_sample(looks)
    error = calibration_error(sample["failed"], sample["probability"])
    changed = int((verdicts["changes"] > 2).sum())
    return [
        f"* delay: median {100 * late.median():.1f} % of the horizon ({steps:.0f} steps), "
        f"95 % of the caught within {100 * late.quantile(0.95):.1f} %",
        f"* collapsed runs caught: {share_called(verdicts, cause == 'collapsed')}",
        f"* diverged runs caught: {share_called(verdicts, cause == 'diverged')}",
        f"* hard negatives called: {share_called(verdicts, hard)}",
        f"* stalled runs called before the horizon: {share_called(verdicts, cause == 'stalled')}",
        f"* verdicts that went back: {int(verdicts['returned'].sum())}; with more than two changes: {changed}",
        f"* λ/λ* alone, all runs with a known level: {auroc(*lambda_alone(verdicts))}",
        f"* calibration error, last look of every run in every phase: {error:.3f}",
        f"* balanced accuracy, held out: {balanced_accuracy(verdicts):.3f} ({by_family(verdicts)})",
        f"* balanced accuracy of one model fitted on all: {balanced_accuracy(whole):.3f}",
    ]


def scores(folder: Path) -> str:
    """All of them."""
    verdicts, looks = records.verdicts(folder), records.told(folder)
    configurations = verdicts["run"].str.rsplit("/", n=1).str[0].nunique()
    counts = ", ".join(f"{n} {name}" for name, n in verdicts["cause"].value_counts().items())
    lines = [
        f"{len(verdicts)} runs, {verdicts['family'].nunique()} families, {configurations} configurations: {counts}.",
        "",
        *comparison(verdicts),
        "",
        *facts(verdicts, looks, folder),
        *strength_lines(verdicts),
        "",
        "Within ±6 % of λ*, AUROC:",
        "",
        *near_table(verdicts, looks),
        "",
    ]
    return "\n".join(lines)


def lambda_alone(verdicts: pd.DataFrame) -> tuple[Any, Any]:
    """Whether a run failed, and its λ/λ*, for the runs whose level was known by then."""
    known = verdicts[verdicts["tolerance"].notna() & (verdicts["strength"] > 0)]
    return known["failed"], known["strength"] / known["tolerance"]


def by_family(verdicts: pd.DataFrame) -> str:
    """Balanced accuracy of each."""
    return ", ".join(f"{name} {balanced_accuracy(part):.2f}" for name, part in verdicts.groupby("family"))


def strength_lines(verdicts: pd.DataFrame) -> list[str]:
    """How the strength in the remedy compares with λ*."""
    levels = verdicts.groupby(verdicts["run"].str.rsplit("/", n=1).str[0])["tolerance"].max()
    said = verdicts[(verdicts["cause"] == "collapsed") & verdicts["holds"].notna()]
    ratio = said["holds"] / said["run"].str.rsplit("/", n=1).str[0].map(levels)
    ratio = ratio[ratio.notna()]
    spread = np.quantile(ratio, [0.05, 0.5, 0.95]) if len(ratio) else [np.nan] * 3
    text = ", ".join(f"{v:.2g}" for v in spread)
    return [f"* the strength named in the remedy lies below λ*: {share(int((ratio < 1).sum()), len(ratio))}; "
            f"as a share of λ* (5, 50, 95 %): {text}"]  # fmt: skip
