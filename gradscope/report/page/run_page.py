"""Summarise records for a page, each read once and in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.post_hoc import validation_losses
from gradscope.diagnosis.verdict import Diagnosis
from gradscope.quantities import BALANCE, BY_LAYER, BY_MODULE, GRADIENT, OF_NETWORK, PENALTY, PROPORTION
from gradscope.report.page.blocks import blocks
from gradscope.report.page.fold import NAMES, Fold
from gradscope.report.page.page_values import (
    DETAILED,
    Array,
    LayerRow,
    Mark,
    Page,
    PageQuantity,
    RunPage,
    first_and_last,
)
from gradscope.report.page.windows import Envelope
from gradscope.store.record import Record
from gradscope.store.settings import differing, settings_of, table
from gradscope.types import InputError

#: Numbers of the layers in one page, all runs together; two bytes each, and a third more in base64.
VALUES = 520_000
#: More layers than this are drawn by block, in at most so many of them; and layers that are drawn in front.
LINES, FRONT = 12, 5
#: A gradient that stays below this share of where it began has faded.
FADED = 0.1


def page_of(paths: Sequence[Path], labels: Sequence[str] | None = None) -> Page:
    """Summarise these records, each read once and in bounded memory.

    Args:
        paths: the records.
        labels: their names on the page; without them, file names.

    Returns:
        The page.

    Raises:
        InputError: a file is no record, or holds no row.
    """
    if not paths:
        raise InputError("no record was given; expected at least one, such as run.h5")
    values = VALUES // min(len(paths), DETAILED)
    names = labels or _labels(paths)
    runs, settings = [], []
    for path, label in zip(paths, names, strict=True):
        with Record(path) as record:
            if not record.rows:
                raise InputError(f"{path} is empty: no training step was recorded, so there is nothing to report")
            fold, rules = read(record, values)
            runs.append(run_page(label, record, fold, rules))
            settings.append(settings_of(record))
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    return Page(title, tuple(runs), differences(settings))


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return file names, with as much of the folder as tells them apart."""
    for depth in range(1, 5):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read(record: Record, values: int) -> tuple[Fold, Checker]:
    """Read every row of the record once into a fold and the rules."""
    fold = Fold(record.info, values, record.rows)
    rules = Checker(record.info, None, validation_losses(record.metrics))
    feed({fold: NAMES, rules: NEEDED}, record)
    return fold, rules


def run_page(label: str, record: Record, fold: Fold, rules: Checker, whole: bool = True) -> RunPage:
    """Summarise a run from what was folded of it, and what the rules found; the record gives the settings.

    Args:
        label: name of the run.
        record: its settings.
        fold: its rows.
        rules: what they found.
        whole: every row was folded, so that a finished run may be judged by its end.

    Returns:
        The summary.
    """
    windows = fold.windows
    steps = windows.envelope("step")
    judged = fold.judge.diagnosis(finished=whole and record.finished)
    diagnosis = replace(judged, findings=tuple(rules.findings))
    quantities = _quantities(fold)
    strength = windows.envelope("network strength").high
    return RunPage(
        label=label,
        path=str(record.path),
        status=record.status,
        rows=fold.windows.rows,
        horizon=fold.info.horizon,
        strength=float(np.nanmax(strength)) if np.isfinite(strength).any() else 0.0,
        penalty=record.penalty,
        schedule=record.schedule,
        optimizer=f"{record.optimizer}, learning rate {_rate(record.learning_rate)}",
        baseline=fold.judge.baseline,
        diagnosis=diagnosis,
        parameters=tuple(fold.info.parameters[i] for i in fold.parameters),
        numel=fold.info.numel[fold.parameters],
        layers_total=len(fold.info.parameters),
        blocks=blocks([fold.info.parameters[i].split(".")[:-1] for i in fold.parameters], LINES),
        module_blocks=blocks([name.split(".") for name in fold.module_names], LINES),
        begin=steps.low[:, 0],
        end=steps.high[:, 0],
        window_rows=windows.size,
        windows_per_pass=fold.windows_per_pass,
        network={name: windows.envelope(f"network {name}") for name in OF_NETWORK},
        quantities=quantities,
        table=_table(fold, quantities, steps.low[:, 0]),
        marks=_marks(record, diagnosis),
        metrics={name: np.asarray(v, dtype=np.float64) for name, v in record.metrics.items()},
        capture=tuple((name, _text(value)) for name, value in record.capture.items()),
    )


def _quantities(fold: Fold) -> dict[str, PageQuantity]:
    found = {}
    for word in (*BY_LAYER, *BY_MODULE):
        names = fold.info.modules if word in BY_MODULE else fold.info.parameters
        columns = tuple(names[i] for i in fold.columns(word))
        if word in fold.windows and columns:
            found[word] = PageQuantity(columns, fold.windows.envelope(word))
    if {PENALTY.word, GRADIENT.word, PROPORTION.word} <= set(found):
        # The network's proportion is Σ|∂L/∂w| over the sum of both: so is a block's.
        both = found[PENALTY.word].envelope.mean + fold.windows.envelope(GRADIENT.word).mean[:, _penalised(fold)]
        entries = fold.info.numel[fold.penalised]
        found[PROPORTION.word] = replace(found[PROPORTION.word], weight=both * entries)
    if (balance := _balance(fold)) is not None:
        found[BALANCE.word] = balance
    return found


def _penalised(fold: Fold) -> NDArray[np.bool_]:
    return np.isin(fold.parameters, fold.penalised)


def _balance(fold: Fold) -> PageQuantity | None:
    """Compute B = Σ⟨w, −∂L/∂w⟩ / Σ⟨w, λ∂Ω/∂w⟩ over each window, where a penalty pushes; None where none does."""
    if "push" not in fold.windows:
        return None
    push = fold.windows.sum("push")
    seen = (push > 0).any(0)
    b = np.divide(fold.windows.sum("pull"), push, out=np.full_like(push, np.nan), where=push > 0)[:, seen]
    names = tuple(fold.info.parameters[i] for i in fold.penalised[seen])
    return PageQuantity(names, Envelope(b, b, b), np.where(push > 0, push, 0.0)[:, seen]) if seen.any() else None


def _table(fold: Fold, quantities: dict[str, PageQuantity], begin: Array) -> tuple[LayerRow, ...]:
    """Build one line a layer of the page."""
    columns = {name: dict(zip(q.names, q.envelope.mean.T, strict=True)) for name, q in quantities.items()}
    lines = []
    for index in fold.parameters:
        name = fold.info.parameters[index]
        wanted = ("gradient", "weight", "proportion", "balance")
        seen = {key: columns.get(key, {}).get(name, np.array([])) for key in wanted}
        ends = {key: first_and_last(values) for key, values in seen.items()}
        faded = faded_at(seen["gradient"], begin)
        penalised = bool(fold.info.penalised[index])
        sizes = ends["gradient"], ends["weight"], ends["proportion"]
        lines.append(LayerRow(name, penalised, *sizes, ends["balance"][1], faded))
    return tuple(lines)


def faded_at(gradient: Array, begin: Array) -> int | None:
    """Return the step from which the gradient [W] stays below `FADED` of its first value; None if it does not."""
    known = np.flatnonzero(np.isfinite(gradient))
    if not len(known):
        return None
    above = np.flatnonzero(gradient[known] >= FADED * gradient[known[0]])
    first = int(above[-1]) + 1 if len(above) else 0
    return int(begin[known[first]]) if first < len(known) else None


def _marks(record: Record, diagnosis: Diagnosis) -> tuple[Mark, ...]:
    """List events of the record, and the steps that the judge names."""
    verdict = diagnosis.verdict
    named: list[tuple[int | None, str, str]] = [(diagnosis.active_step, "active phase", "the run leaves the baseline")]
    if diagnosis.failed:
        named = [
            (diagnosis.onset_step, "onset", f"{verdict} from here"),
            (diagnosis.decided_step, "could be known", f"from here on it could have been known to be {verdict}"),
        ]
    judged = [Mark(step, kind, text) for step, kind, text in named if step is not None]
    told = [Mark(event["step"], event["kind"], event["text"]) for event in record.events]
    return tuple(sorted([*judged, *told], key=lambda mark: mark.step))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# -- how runs differ --------------------------------------------------------------------------------


def differences(settings: Sequence[Mapping[str, str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List the settings that are not equal in all runs: a name, and one value a run, as a page shows it."""
    found = differing(table(settings))
    return tuple((n, tuple("–" if v is None else v.strip('"') for v in row)) for n, row in found.items())


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
