"""What the first rows of one failing run tell of its level.

Readers that have not seen the family read every probe above the level that probes.npz holds, as `level_of` does.
"""

from __future__ import annotations

import itertools

import numpy as np

from analyses.common.markdown import markdown
from analyses.prediction.held_out import Found
from gradscope.prediction.from_record import ALONE, FAR

#: Parts of what is read, in decades above the level.
PARTS = (-2.0, 0.0, 0.3, 0.6, 0.9, FAR, 3.0)


def alone(found: Found) -> str:
    """The table, and how often an interval holds."""
    known, _, readers = found["direct"]
    read = [
        (probe.place, reader.read(probe.features), case.is_late)
        for family, reader in readers.items()
        for case in known
        if case.configuration.family == family
        for probe in case.probes
    ]
    true, told, is_late = np.array(read).T
    error, fails = told - true, true > 0
    lines = []
    for low, high in itertools.pairwise(PARTS):
        here = fails & (told > low) & (told <= high)
        sizes = np.quantile(np.abs(error[here]), [0.5, 0.9, 0.95])
        inside = float(np.mean(np.abs(error[here]) <= ALONE))
        lines.append([f"{low:g} to {high:g}", int(here.sum()), f"{np.median(error[here]):+.2f}",
                      *(f"{size:.2f}" for size in sizes), f"{inside:.3f}"])  # fmt: skip
    said = fails & (told > 0) & (told <= FAR)
    covered = float(np.mean(np.abs(error[said]) <= ALONE))
    apart = [
        f"{np.mean(np.abs(error[here]) <= ALONE):.3f} of {here.sum()} {where}"
        for where, here in (
            ("of nets that learn early", said & (is_late == 0)),
            ("of nets that learn late", said & (is_late == 1)),
            ("of the late ones that lie more than a decade above it", said & (is_late == 1) & (true > 1)),
        )
    ]
    below = [f"{limit:g}: {int(((told > limit) & ~fails).sum())}" for limit in (0.3, 0.6, 0.9)]
    text = [
        "Written by `python -m analyses plot prediction` from probes.npz.", "",
        f"{int(fails.sum())} probes above the level, of {len(known)} configurations under SGD and AdamW:", "",
        markdown(["read, decades above", "probes", "median, signed", "median error", "90 %", "95 %",
                  f"within {ALONE:g}"], lines), "",
        f"Told of with an interval (read between 0 and {FAR:g}): {int(said.sum())}, {covered:.3f} of the levels within "
        f"{ALONE:g} decades: {', '.join(apart)}.",
        f"Of {int((~fails).sum())} probes below their level these read as more than so many decades above it: "
        + ", ".join(below) + ".", "",
    ]  # fmt: skip
    return "\n".join(text)
