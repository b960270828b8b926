"""gradscope inspect: what a record holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from gradscope_cli.output import Json, print_json, shorter, tell

from gradscope.card import SHORT, plain
from gradscope.quantities import GRADIENT, WEIGHT, Strength

#: Lines of a table that are shown without --all.
LINES = 24


def inspect(
    run: Annotated[Path, typer.Argument(help="A record: finished, running or left by a killed process.")],
    everything: Annotated[bool, typer.Option("--all", help="Every parameter and event, however many.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a record holds, and what each number in it means.

    Parameters, steps, ranges, how often each quantity was sampled, and what was clipped, scaled or not seen.
    """
    from gradscope.report.overview import overview
    from gradscope.store.record import Record

    with Record(run) as record:
        seen = overview(record)
        seen["metrics"] = {name: values.tolist() for name, values in record.metrics.items()}
        seen["events"] = record.events
    if as_json:
        print_json({"path": str(run), **seen})
        return
    most = None if everything else LINES
    _head(run, seen)
    tell(f"\n{len(seen['parameters'])} parameters, {seen['entries']} entries; first → last row:")
    _table([["", "shape", "", WEIGHT.axis, GRADIENT.axis], *_parameters(seen)], most)
    tell("\nvariables, their smallest and largest finite value, and rows that hold any:")
    _table(list(_variables(seen)), None)
    _metrics(seen["metrics"])
    tell(f"\n{len(seen['events'])} events:")
    _table([[f"step {event['step']}", event["kind"], event["text"]] for event in seen["events"]], most)
    tell("\ncapture, or what each number means in this run:")
    for name, value in seen["capture"].items():
        tell(f"  {name}: {_words(value)}")


def _head(run: Path, seen: dict[str, Any]) -> None:
    rows, seconds = seen["rows"], seen["seconds"]
    epochs = f", {seen['epochs']} epochs" if seen["epochs"] else ""
    pace = f", {seconds:.3g} s ({rows / seconds:.3g} rows a second)" if seconds > 0 else ""
    tell(f"{run}: {seen['status']}, {rows} rows, steps {seen['first_step']} to {seen['last_step']}{epochs}{pace}")
    tell(f"  {seen['optimizer']}, penalty {seen['penalty']}, schedule {seen['schedule']}, preset {seen['preset']}")
    tell(f"  {Strength(seen['strength'], seen['penalty'])}, baseline loss {shorter(seen['baseline_loss'], 4)}")


def _parameters(seen: dict[str, Any]) -> Iterator[list[str]]:
    for p in seen["parameters"]:
        sizes = [p.get(q.name, []) for q in (WEIGHT, GRADIENT)]
        ends = [" → ".join(map(shorter, size)) for size in sizes]
        shape = "×".join(map(str, p["shape"])) or "scalar"
        yield [p["name"], shape, "penalised" if p["penalised"] else "free", *ends]


def _variables(seen: dict[str, Any]) -> Iterator[list[str]]:
    for name, (low, high) in seen["ranges"].items():
        held = "" if seen["samples"][name] == seen["rows"] else f"{seen['samples'][name]} of {seen['rows']} rows"
        yield [name, f"{shorter(low)} … {shorter(high)}", held, seen["meanings"][name]]


def _metrics(metrics: dict[str, list[float]]) -> None:
    import math

    for name, values in metrics.items():
        known = [value for value in values if not math.isnan(value)]
        if name != "epoch" and known:
            tell(f"\nepochs: {name} from {shorter(min(known))} to {shorter(max(known))}, last {shorter(known[-1])}")


def _table(lines: Sequence[Sequence[str]], most: int | None) -> None:
    if not lines:
        tell("  none")
        return
    shown = [
        [*(plain(cell, SHORT) for cell in line[:-1]), line[-1]] for line in (lines if most is None else lines[:most])
    ]
    widths = [max(len(line[k]) for line in shown) for k in range(len(lines[0]))]
    for line in shown:
        tell("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(lines) > len(shown):
        tell(f"  … and {len(lines) - len(shown)} more (--all shows them)")


def _words(value: Any) -> str:
    """Write a value of ``capture`` as text: lists and tables in one line, nothing as "none"."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_words(inner) for inner in value) or "none"
    return str(value)
