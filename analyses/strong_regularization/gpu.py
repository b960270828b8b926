"""What a card is wanted for, in commands of under ten minutes: the document's VGG-16 with L2, and checks of the card.

``python -m analyses.strong_regularization.gpu --dataset cifar10 --minutes 6``: 75 trainings at full width, several at a
time; the same command goes on where the last one stopped, then measures what recording costs on the card and runs the
tests of its kernels. ``--only checks`` does these alone. With ``--out`` on another machine, give ``--done`` the folder
of the rows that are there already: they are copied once. ``--tiny`` tries it all on the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from analyses.common import images, study
from analyses.common.study import Cell, Options, Row
from analyses.recorder_overhead import cases
from analyses.strong_regularization.plan import cell, protocol, setup
from analyses.strong_regularization.plot import STYLE, against_strength
from analyses.strong_regularization.training import train
from gradscope import checks
from gradscope.report.figures import figure_of, save
from gradscope.types import InputError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Twelve, by data set: around the level that narrow nets have on pairs, and that the document has for VGG-16.
STRENGTHS = {
    "pairs": (1e-4, 3e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 0.012, 0.016, 0.024),
    "cifar10": (1e-4, 2.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 5.6e-3, 8e-3, 0.012),
}
SEEDS = 3
PARTS = ("train", "checks")


def cells(net: str, strengths: tuple[float, ...] = STRENGTHS["pairs"], seeds: int = SEEDS) -> list[Cell]:
    """Seed by seed, so that whatever fits into the time is a whole figure; none without a penalty first."""
    found = []
    for seed in range(seeds):
        found.append(cell(net, "none", 0.0, "constant", seed))
        found += [cell(net, "l2", s, schedule, seed) for s in strengths for schedule in ("constant", "delayed:5")]
    return found


def measurements(tiny: bool) -> dict[str, list[str]]:
    """The checks by name: what follows ``python -m``; ``{out}`` is the folder of the results."""
    found = {}
    overhead = "analyses.recorder_overhead"
    for k, name in enumerate(list(cases.CPU)[:1] if tiny else cases.CUDA):
        few = ["--rounds", "1", "--ways", "bare"] if tiny else ["--rounds", "30"]
        words = [f"{overhead}.run", "--device", "cpu" if tiny else "cuda", "--only", name, *few]
        found[f"overhead, {name}"] = [*words, "-o", f"{{out}}/overhead-{k + 1}.csv"]
    if not tiny:
        found["growth"] = [f"{overhead}.growth", "--device", "cuda", "--steps", "0", "--out", "{out}"]
    room = "tests/recorder"
    tests = [f"{room}/test_statistics.py", "-x"] if tiny else [f"{room}/test_graphs.py", f"{room}/test_statistics.py"]
    found["tests"] = ["pytest", "-q", "-p", "no:cacheprovider", *tests]
    return found


def check(wanted: Cell, asked: Options) -> Row:
    """Run a check to its end; what it prints goes beside the results. Raises `RuntimeError` where it fails."""
    words = measurements(asked.scale == "tiny")[wanted["check"]]
    command = [word.replace("{out}", str(asked.results.parent.absolute())) for word in words]
    ended = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    name = wanted["check"].replace(", ", "-").replace(" ", "-")
    asked.results.with_name(f"{asked.results.stem}-{name}.txt").write_text(ended.stdout + ended.stderr)
    last = (ended.stdout.strip().splitlines() or [""])[-1]
    if ended.returncode:
        raise RuntimeError(f"exit code {ended.returncode}: {last}")
    return {"command": f"python -m {' '.join(words)}", "last": last}


def options() -> tuple[argparse.Namespace, Options]:
    """What was asked for. Raises `InputError` where it cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="vgg16", choices=("vgg11", "vgg16", "vgg19", "alexnet"))
    parser.add_argument("--dataset", default="pairs", choices=tuple(STRENGTHS))
    parser.add_argument("--data", type=Path, default=Path("data"), help="CIFAR-10: an archive, or torchvision's folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts of it")
    parser.add_argument("--minutes", type=float, default=8, help="nothing begins later; default: %(default)g")
    parser.add_argument("--at-once", type=int, default=8, help="trainings at a time on the card; default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE, help="where the rows go")
    parser.add_argument("--done", type=Path, default=HERE, help="where the rows of earlier commands are")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, a thirty-second of the width, one epoch")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        raise InputError("no CUDA device is here; --tiny tries the same on the CPU")
    device, scale = ("cpu", "tiny") if given.tiny else ("cuda", "card")
    results = given.out / f"{scale}-{given.dataset}.jsonl"
    asked = Options(given.dataset, scale, SEEDS, device, given.data, given.at_once, "local", (), results)
    checks.writable_folder(given.out)
    how = protocol(given.net, asked)
    images.load(asked.dataset, how.size, how.channels, asked.data, how.images)  # what cannot be read is said here
    return given, asked


@study.command
def main() -> int:
    """Trains what is missing until the time is up, then checks what is not checked."""
    began = time.monotonic()
    given, asked = options()
    checked = replace(asked, workers=1, results=given.out / f"{asked.scale}-checks.jsonl")
    for name in (asked.results.name, checked.results.name):
        if given.done != given.out and (given.done / name).exists() and not (given.out / name).exists():
            shutil.copy(given.done / name, given.out / name)
    missing = 0
    if "train" in given.only:
        strengths = STRENGTHS[given.dataset]
        planned = cells(given.net, strengths[:1], 1) if given.tiny else cells(given.net, strengths)
        found = study.complete(train, planned, asked, minutes=given.minutes)
        print(f"{len(found)} of {len(planned)} trained: {asked.results}")
        if (panel := against_strength(found, given.net, "l2", setup(asked))) is not None:
            save(figure_of([panel], STYLE), asked.results.with_name(f"figure3-{asked.results.stem}.png"), STYLE)
        missing += len(planned) - len(found)
    if "checks" in given.only:
        wanted: list[Cell] = [{"check": name} for name in measurements(given.tiny)]
        left = given.minutes - (time.monotonic() - began) / 60
        done = study.complete(check, wanted, checked, minutes=left)
        print(f"{len(done)} of {len(wanted)} checked: {checked.results}")
        missing += len(wanted) - len(done)
    return missing


if __name__ == "__main__":
    main()
