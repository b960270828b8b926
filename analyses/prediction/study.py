"""How well a few probes of 40 steps tell the tolerance level of nets of unseen families; the shipped reader."""

from __future__ import annotations

import functools
from pathlib import Path

from analyses.common.study import Drawing, Options, Part, Study
from analyses.prediction import (
    attempts,
    delayed,
    delayed_fit,
    delayed_read,
    documents,
    equal_steps,
    fit,
    held_out,
    longer,
    raised,
    warned,
)
from analyses.prediction.alone import alone
from analyses.prediction.collect import collect_all
from analyses.prediction.data import cases, pack_all
from analyses.prediction.saved import saved
from analyses.prediction.wider import widen


def tables(folder: Path) -> dict[str, str]:
    """All from probes.npz, fitted with each family held out."""
    found = held_out.tried_all()
    return {
        "tables.md": held_out.tables(cases(), found), "results.csv": held_out.rows(found),
        "alone.md": alone(found), "saved.md": saved(found), "warned.md": warned.warned(found, folder),
        "raised.md": raised.told(found, folder), "delayed.md": delayed_read.told(found, folder),
        "equal.md": equal_steps.told(found["direct"][1]), "documents.md": documents.told(found, folder),
        "documents-delayed.md": documents.told_delayed(folder),
        "attempts.md": attempts.told(folder), "longer.md": longer.told(folder),
    }  # fmt: skip


def fit_shipped(asked: Options) -> None:
    """Make both readers."""
    fit.fit_shipped()
    delayed_fit.fit_shipped()


def figures(folder: Path) -> dict[str, Drawing]:
    """Predicted against measured."""
    return {"errors.png": functools.partial(held_out.draw, held_out.tried_all()["direct"][1])}


STUDY = Study(
    "prediction",
    {
        "collect": collect_all,
        "pack": pack_all,
        "fit": fit_shipped,
        "widen": widen,
        "attempts": Part(attempts.cells, attempts.attempt, attempts.FILE, here=True),
        "longer": Part(longer.cells, longer.tried_all, longer.FILE, here=True),
        "raised": Part(raised.cells, raised.probed, raised.FILE, here=True),
        "delayed": Part(delayed.cells, delayed.collected, delayed.FILE, here=True),
        "documents": Part(documents.cells, documents.suggested, documents.FILE, here=True),
        "documents-delayed": Part(documents.cells_delayed, documents.suggested, documents.DELAYED, here=True),
        "warned": Part(warned.cells, warned.first_rows, warned.FRESH, here=True),
    },
    tables,
    figures,
    options={"--cache": {"type": Path, "help": "collect, pack: the folder of a file a configuration"}},
)
