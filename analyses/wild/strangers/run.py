"""Train every script in every setting, say what is diagnosed, and follow the remedy to the letter.

    GRADSCOPE_CIFAR10=…/cifar10-jpeg.tar.xz python -m analyses.wild.strangers.run --out FOLDER [NAME …]

Standard output: one line a training. What it means is written down, by a person, in ``../strangers.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

#: Script, arguments, and the arguments that its remedy asks for; "run" for ``gradscope run``, nothing for no remedy.
SETTINGS: list[tuple[str, str, str]] = [
    ("tabular", "", ""),
    ("tabular", "--weight-decay 1", ""),
    ("tabular", "--weight-decay 10", "run"),
    ("tabular", "--lr 10", "--lr 1e-2"),
    ("tabular", "--lr 1e-5", "--lr 1e-5 --standardise"),
    ("tabular", "--lr 1e-5", "--lr 1e-3"),
    ("resnet", "", ""),
    ("resnet", "--weight-decay 0.05", "--weight-decay 0.05 --no-decay-on-norm"),
    ("resnet", "--weight-decay 0.5", "run"),
    ("resnet", "--lr 10", "--lr 0.1"),
    ("gpt", "", ""),
    ("gpt", "--weight-decay 10", "--weight-decay 1"),
    ("gpt", "--weight-decay 100", "run"),
    ("gpt", "--init-std 1", "--init-std 0.1"),
    ("gpt", "--lr 0.3", "--lr 0.01"),
    ("finetune", "", ""),
    ("finetune", "--weight-decay 1", ""),
    ("finetune", "--weight-decay 100", "run"),
    ("finetune", "--lr 1", "--lr 1e-2"),
    ("infonce", "", ""),
    ("infonce", "--weight-decay 1", "--weight-decay 1 --no-decay-on-norm"),
    ("infonce", "--weight-decay 100", "run"),
    ("infonce", "--lr 1", ""),
    ("infonce", "--temperature 0.001", ""),
]


def said(record: Path) -> str:
    """Verdict, cause, findings and remedy of a record."""
    command = [sys.executable, "-m", "gradscope", "diagnose", "--json", str(record)]
    run = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["runs"][0]
    findings = sorted({found["rule"] for found in run["findings"]})
    return f"{run['verdict']}, cause {run['cause'] or '-'}, findings {findings}; remedy: {run['remedy']}"


def train(folder: Path, name: str, arguments: str, supervised: bool = False) -> str:
    """One training, or what ``gradscope run`` makes of it; the line that it ends with."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", f"analyses.wild.strangers.{name}", *arguments.split()]
    if supervised:
        command = [sys.executable, "-m", "gradscope", "run", "--out", str(folder), "--", *command]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines() or [""]
    last = " / ".join(lines[-4:]) if supervised else lines[-1]
    return f"{last} (exit {done.returncode}, {time.monotonic() - begun:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", help="only scripts of these names")
    given = parser.parse_args()
    for number, (name, arguments, remedy) in enumerate(SETTINGS):
        if given.names and name not in given.names:
            continue
        folder = given.out.resolve() / f"{number}-{name}"
        print(f"{name} {arguments}: {train(folder, name, arguments)} | {said(folder / 'run.h5')}", flush=True)
        if remedy:
            line = train(folder / "remedy", name, arguments if remedy == "run" else remedy, remedy == "run")
            print(f"  followed, {remedy}: {line}", flush=True)


if __name__ == "__main__":
    main()
