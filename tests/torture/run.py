"""The long campaign: python -m tests.torture.run (`make torture`; about half an hour on two cores).

Writes results.json: each fault with how often it was provoked, how many files could not be read after it, and
how many rows were lost beyond the stated window.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import platform
import random
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradscope.store import redo_log
from tests.torture import fuzz, power, records, scenario, training
from tests.torture.system_calls import clean, half_applied, killed_at

HERE = Path(__file__).parent


def tally(cases: Iterator[Callable[[], Any]]) -> dict[str, Any]:
    """Run each case: what raises AssertionError has lost rows, what raises anything else could not be read."""
    counts = {"tried": 0, "unreadable": 0, "rows_lost": 0}
    messages = []
    for case in cases:
        counts["tried"] += 1
        try:
            case()
        except AssertionError as error:
            counts["rows_lost"] += 1
            messages.append(str(error)[:200])
        except Exception as error:
            counts["unreadable"] += 1
            messages.append(f"{type(error).__name__}: {error}"[:200])
    return counts | ({"messages": messages[:20]} if messages else {})


def kills(folder: Path, count: int) -> dict[str, Any]:
    delays = training.random_delays(count, 3.0)
    rows: list[int] = []

    def case(delay: float) -> None:
        path = folder / "r.h5"
        clean(path)
        old, done = training.kill(path, delay)
        rows.append(done - training.check(path, old))

    found = tally((lambda d=delay: case(d)) for delay in delays)
    return found | {"steps_not_in_the_file_at_most": max(rows), "window_seconds": 1.0, "grace_seconds": training.GRACE}


def system_calls(folder: Path, torn: bool) -> dict[str, Any]:
    path = folder / "r.h5"

    def cases() -> Iterator[Callable[[], Any]]:
        number, died = 0, True
        while died:
            clean(path)
            rows, died = killed_at(number, torn, lambda published: scenario.live(path, published))
            if rows >= 0:  # before the first commit there is no record yet
                yield lambda rows=rows: scenario.verify(path, rows)
            number += 1

    return tally(cases())


def recoveries(folder: Path, torn: bool) -> dict[str, Any]:
    path = folder / "r.h5"
    rows = half_applied(path, lambda p, published: scenario.live(p, published, close=False))
    crashed = {left.name: left.read_bytes() for left in folder.iterdir()}

    def cases() -> Iterator[Callable[[], Any]]:
        number, died = 0, True
        while died:
            clean(path)
            for name, content in crashed.items():
                (folder / name).write_bytes(content)
            _, died = killed_at(number, torn, lambda published: redo_log.redo(path) and None)
            yield lambda: scenario.verify(path, rows)
            number += 1

    return tally(cases())


def power_losses(folder: Path, count: int) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        trace = power.Trace()
        trace.watch(patch)
        scenario.live(folder / "r.h5", trace.published)
    source = random.Random(1)

    def case() -> None:
        there = folder / "crashed"
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir()
        scenario.verify(*power.crash(trace, folder / "r.h5", there, source))

    return tally(case for _ in range(count))


def hurt(folder: Path) -> dict[str, Any]:
    """Each class once, through all commands, with half the memory."""
    found = fuzz.campaign([-1 - n for n in range(len(fuzz.HURT))], *records.good_and_crashed(folder), memory=500 << 20)
    return counted(found, fuzz.COMMANDS)


def counted(found: list[fuzz.Finding], commands: Sequence[str]) -> dict[str, Any]:
    """By class: files, and what the commands said of them."""
    classes: dict[str, dict[str, int]] = {}
    for kind in dict.fromkeys(finding.kind for finding in found):
        these = [finding for finding in found if finding.kind == kind]
        files = {"files": len({finding.seed for finding in these})}
        classes[kind] = files | dict(collections.Counter(finding.outcome for finding in these))
    wrong = {name: sum(finding.outcome == name for finding in found) for name in fuzz.WRONG}
    bad = [vars(finding) for finding in found if finding.bad]
    tried = len({finding.seed for finding in found})
    return {"tried": tried, "commands": sorted(commands), "wrong": wrong, "classes": classes, "bad": bad[:50]}


def fuzzed(folder: Path, seeds: range, minutes: float, commands: Sequence[str]) -> dict[str, Any]:
    good, crashed = records.good_and_crashed(folder)
    for command in commands:  # loads here what each forked worker would load again
        fuzz.judge(good, command, fuzz.options_of(folder, good)[command])
    found: list[fuzz.Finding] = []
    end = time.monotonic() + 60 * minutes
    for start in range(0, len(seeds), 50):
        if time.monotonic() < end:
            found += fuzz.campaign(list(seeds[start : start + 50]), good, crashed, commands)
            print(found[-1].seed + 1, collections.Counter(finding.outcome for finding in found), flush=True)
    return {"first": seeds[0]} | counted(found, commands)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full numbers")
    parser.add_argument("--minutes", type=float, default=60.0, help="the fuzz ends after them")
    parser.add_argument("--first", type=int, default=0, help="seed of the first fuzzed file; one that ended goes on so")
    parser.add_argument("--commands", nargs="+", choices=fuzz.COMMANDS, default=fuzz.COMMANDS, help="that are fuzzed")
    parser.add_argument("--only", default="", help="one fault, by its name")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    many = max(1, int(200 * options.scale))
    faults: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kill before every system call of a life": lambda f: system_calls(f, torn=False),
        "kill within every write of a life": lambda f: system_calls(f, torn=True),
        "kill before every system call of a recovery": lambda f: recoveries(f, torn=False),
        "kill within every write of a recovery": lambda f: recoveries(f, torn=True),
        "power loss": lambda f: power_losses(f, many),
        "SIGKILL of a training at a random moment": lambda f: kills(f, many),
        "fuzzed files": lambda f: fuzzed(
            f, range(options.first, options.first + 10 * many), options.minutes, options.commands
        ),
        "records made to hurt": hurt,
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    results: dict[str, Any] = {
        "command": "python -m tests.torture.run", "machine": machine,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "commit": commit, "faults": {},
    }  # fmt: skip
    for name, provoke in faults.items():
        if options.only and options.only not in name:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = provoke(Path(folder))
        results["faults"][name] = found | {"seconds": round(time.monotonic() - began)}
        print(name, json.dumps(found)[:400], flush=True)
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
