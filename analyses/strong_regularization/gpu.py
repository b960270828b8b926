"""What a card is wanted for, in commands of under ten minutes: the document's VGG-16 with L2, and checks of the card.

``python -m analyses run strong_regularization --scale card --dataset cifar10 --device cuda --workers 8 --minutes 6
--only card checks``: 75 trainings at full width, several at a time; the same command goes on where the last one
stopped, then measures what recording costs on the card and runs the tests of its kernels. ``--scale tiny``, without the
device, tries it all on the CPU.
"""

from __future__ import annotations

import subprocess
import sys

from analyses.benchmarks import cases
from analyses.common.results import Cell, Row
from analyses.common.study import ANALYSES, Options
from analyses.strong_regularization.plan import cell
from gradscope.types import InputError

#: Twelve, by data set: around the level that narrow nets have on pairs, and that the document has for VGG-16.
STRENGTHS = {
    "pairs": (1e-4, 3e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 0.012, 0.016, 0.024),
    "cifar10": (1e-4, 2.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 5.6e-3, 8e-3, 0.012),
}
#: What it is for.
SCALES = ("card", "tiny")


def cells(asked: Options) -> list[Cell]:
    """Seed by seed, so that whatever fits into the time is a whole figure; none without a penalty first."""
    if asked.scale not in SCALES:
        raise InputError(f"--scale is {asked.scale}; a card is for one of {', '.join(SCALES)}")
    net, tiny = asked.more["net"], asked.scale == "tiny"
    strengths = STRENGTHS[asked.dataset][: 1 if tiny else None]
    found = []
    for seed in range(1 if tiny else asked.seeds):
        found.append(cell(net, "none", 0.0, "constant", seed))
        found += [cell(net, "l2", s, schedule, seed) for s in strengths for schedule in ("constant", "delayed:5")]
    return found


def measurements(tiny: bool) -> dict[str, list[str]]:
    """The checks by name: what follows ``python -m``; ``{out}`` is the folder of the results."""
    found = {}
    device = "cpu" if tiny else "cuda"
    benchmarks = ["analyses", "run", "benchmarks", "--device", device, "--out", "{out}", "--only"]
    for name in list(cases.CPU)[:1] if tiny else cases.CUDA:
        few = ["--rounds", "1", "--ways", "bare"] if tiny else ["--rounds", "30"]
        found[f"overhead, {name}"] = [*benchmarks, "overhead", "--nets", name, *few]
    if not tiny:
        found["growth"] = [*benchmarks, "growth"]
    room = "tests/recorder"
    tests = [f"{room}/test_statistics.py", "-x"] if tiny else [f"{room}/test_graphs.py", f"{room}/test_statistics.py"]
    found["tests"] = ["pytest", "-q", "-p", "no:cacheprovider", *tests]
    return found


def checks(asked: Options) -> list[Cell]:
    """One a check."""
    return [{"check": name} for name in measurements(asked.scale == "tiny")]


def check(wanted: Cell, asked: Options) -> Row:
    """Run a check to its end; what it prints goes beside the results. Raises `RuntimeError` where it fails."""
    words = measurements(asked.scale == "tiny")[wanted["check"]]
    command = [word.replace("{out}", str(asked.out.absolute())) for word in words]
    ended = subprocess.run([sys.executable, "-m", *command], cwd=ANALYSES.parent, capture_output=True, text=True,
                           check=False)  # fmt: skip
    name = wanted["check"].replace(", ", "-").replace(" ", "-")
    asked.results.with_name(f"{asked.results.stem}-{name}.txt").write_text(ended.stdout + ended.stderr)
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode}: {last}")
    return {"command": f"python -m {' '.join(words)}", "last": last}
