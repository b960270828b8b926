"""gradscope tune: find the strength with the best metric of a training command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from gradscope_cli.output import Json, print_json, say, shorter, showing, tell

if TYPE_CHECKING:
    from gradscope.tuning.result import TuneProgress, TuneResult


def tune(
    command: Annotated[list[str], typer.Argument(help="The training command, after --.", metavar="-- COMMAND…")],
    metric: Annotated[str, typer.Option(help="A metric of Recording.epoch, or a scalar of Recording.log.")],
    low: Annotated[float, typer.Option(help="The weakest strength λ to consider; for l2, half of its weight_decay.")],
    high: Annotated[float, typer.Option(help="The strongest strength λ to consider.")],
    mode: Annotated[str, typer.Option(help="Which metric is better: max or min.")] = "max",
    penalty: Annotated[str, typer.Option(help="The penalty: l2, l1, l1l2, linf, l3 …")] = "l2",
    delayed: Annotated[bool, typer.Option("--delayed", help="Try strengths with delayed:auto, too.")] = False,
    cost: Annotated[float, typer.Option(help="Share of the best metric that a stronger penalty may cost.")] = 0.01,
    repeats: Annotated[int, typer.Option(help="Pairs of runs that compare the best with no penalty.")] = 5,
    workers: Annotated[
        int | None, typer.Option(help="Trials at a time. Default: 1; on a cluster, as many as it has threads.")
    ] = None,
    executor: Annotated[
        str, typer.Option(help="Where trials run: local, dask://HOST:PORT, or submitit (Slurm).")
    ] = "local",
    max_trials: Annotated[int, typer.Option(help="Trials at most.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the trials.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a trial counts as hung and is lost.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder; an interrupted tuning carries on there.")] = Path(
        "gradscope-tune"
    ),
    as_json: Json = False,
) -> None:
    """Find the strength with the best metric, and what it gains.

    Told with an interval, against no penalty in pairs of runs with the same seeds, and with the largest strength that
    costs little. Runs that fail are ended early. The command may hold {strength}, {weight_decay}, {seed} and {out};
    gradscope.record in it obeys the environment. Beyond which strength nothing is learned: gradscope search.
    """
    from gradscope.processes.command import Command
    from gradscope.quantities import Strength
    from gradscope.trials.executors import checked
    from gradscope.tuning.tune import tune_command

    result = tune_command(
        Command.parse(command, penalty), low, high, metric=metric, mode=mode, delayed=delayed, workers=workers,
        executor=checked(executor), out=out, cost=cost, repeats=repeats, max_trials=max_trials, seed=seed,
        timeout=timeout, on_trial=showing(_show, command, "trial"),
    )  # fmt: skip
    figure = _draw(result, out / "tune.png")
    if as_json:
        print_json({**result.as_dict(), "figure": figure and str(figure)})
        return
    if result.best is not None:
        b = result.best
        found = Strength(b.strength, result.penalty)
        tell(f"best strength {found}, 95 % interval of λ {shorter(b.low)} … {shorter(b.high)}")
    tell(result.advice)
    if figure is not None:
        tell(f"{metric} against strength: {figure}")


def _draw(result: TuneResult, path: Path) -> Path | None:
    """Draw the metric of every run against its strength, and against zeros if there are any; None without a metric."""
    try:
        from gradscope.report.curves import Band
        from gradscope.report.figures import figure_of, save
        from gradscope.report.strengths import Sample, accuracy_against_sparsity, accuracy_against_strength
        from gradscope.report.style import style
    except ModuleNotFoundError as error:
        from gradscope.extras import missing_for

        if (said := missing_for("the figure", error)) is None:
            raise
        say(said)
        return None
    samples = []
    for label, delayed in (("from the start", False), ("with a delay", True)):
        runs = [
            t for t in result.trials if t.value is not None and t.strength > 0 and (t.schedule is not None) == delayed
        ]
        if runs:
            zeros = [t.sparsity or 0.0 for t in runs]
            samples.append(Sample.of(label, [t.strength for t in runs], [t.value or 0.0 for t in runs], zeros))
    if not samples:
        return None
    without = [t.value for t in result.trials if t.strength == 0 and t.value is not None]
    reference = Sample.of("", [0.0] * len(without), without)
    best = result.best
    band = Band("best strength, 95 %", best.low, best.high) if best else None
    panels = [
        replace(
            accuracy_against_strength([*samples, reference], quantity=result.metric, penalty=result.penalty), band=band
        )
    ]
    if any(s.sparsity is not None and s.sparsity.max() > 0 for s in samples):
        panels.append(accuracy_against_sparsity(samples, quantity=result.metric))
    look = style("screen")
    save(figure_of(panels, look), path, look)
    return path


def _show(now: TuneProgress) -> None:
    """Print one line a trial: its outcome, the best so far, what was spent, what is to come."""
    t = now.trial
    if t is None:
        happened = now.lost or ""
    else:
        happened = f"{t.strength:.4g}{' delayed' if t.schedule else ''} {t.verdict} after {t.steps} steps"
        happened += "" if t.value is None else f", {t.value:.4g}"
    best = "no best yet" if now.best is None else f"best about {shorter(now.best)}"
    rest = f"about {now.rest} to come" if now.rest else "done"
    say(f"tune {now.trials:2d}: {best}; {now.steps} steps, {rest}; {happened}")
