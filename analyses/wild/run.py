"""Public training code under a recording.

Each script runs three times on the same seed: bare and recorded, taking turns of some steps so that their times can be
compared, and recorded under a witness that computes every number again in float64. Nothing is fetched: a codebase whose
checkout is not in the folder of sources is named and left out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from analyses.common import machine
from analyses.common.results import Results
from analyses.common.study import Options
from analyses.wild import child
from analyses.wild.case import Case, Missing, edit
from analyses.wild.cases import CASES
from gradscope.types import InputError

FILE = "cases.jsonl"
LIMIT = 400  # seconds for a script, three times


def copied(case: Case, sources: Path, target: Path, recorded: bool, preset: str) -> int:
    """A checkout of its own, with its data made and its lines in place; the number of lines added."""
    shutil.copytree(sources / case.repository.replace("/", "+"), target, symlinks=True)
    if case.prepare:
        case.prepare(target / case.folder)
    return edit(case, target, recorded, preset)


class Fork:
    """A process of its own that has torch loaded already: a script is not charged for imports three times."""

    def __init__(self, request: Path, folder: Path, output: Path, theirs: tuple[int, ...] = ()) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for pipe in theirs:
                os.close(pipe)
            try:
                os.chdir(folder)
                child.run(request)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time; it has ended afterwards."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return True
            time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return False


def start(
    case: Case, sources: Path, root: Path, mode: str, pipes: tuple[int, int] | None = None, ours: tuple[int, ...] = ()
) -> Fork:
    """The process that runs one copy. ``pipes``: its ends of them; ``ours``: the other ends."""
    folder = root / case.folder
    request = {
        "mode": mode, "script": str(folder / case.script), "arguments": case.arguments.split(), "pipes": pipes,
        "steps": case.steps, "turn": case.turn, "answer": str(root / "answer.json"),
        "path": [str(root / one) for one in case.path]
        + [str((sources / one.replace("/", "+")).resolve()) for one in case.libraries],
    }  # fmt: skip
    (root / "request.json").write_text(json.dumps(request))
    return Fork(root / "request.json", folder, root / "output.txt", ours)


def answer(process: Fork, root: Path) -> dict[str, Any]:
    """What it wrote, or how it ended without writing."""
    nothing: dict[str, Any] = {"steps": 0, "state": "", "turns": []}
    if not process.wait(LIMIT):
        return nothing | {"error": f"not done after {LIMIT} s"}
    if not (root / "answer.json").exists():
        last = (root / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
        return nothing | {"error": f"ended: {' '.join(last)}"}
    found: dict[str, Any] = json.loads((root / "answer.json").read_text())
    return found


def in_turns(case: Case, sources: Path, bare: Path, recorded: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both ways step by step in turns, each waiting while the other works."""
    ways: list[tuple[Fork, int, int]] = []
    for root, mode in ((bare, "bare"), (recorded, "recorded")):
        (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
        others = [end for _, *ends in ways for end in ends]
        process = start(case, sources, root, mode, (their_read, their_write), (our_write, our_read, *others))
        os.close(their_read)
        os.close(their_write)
        ways.append((process, our_read, our_write))
    waiting = [way for way in ways if os.read(way[1], 1) == b"."]
    while waiting:
        for way in list(waiting):
            try:
                os.write(way[2], b".")
            except BrokenPipeError:
                waiting.remove(way)
                continue
            if os.read(way[1], 1) != b".":
                waiting.remove(way)
    for _, our_read, our_write in ways:
        os.close(our_read)
        os.close(our_write)
    return answer(ways[0][0], bare), answer(ways[1][0], recorded)


def one(case: Case, sources: Path, preset: str) -> dict[str, Any]:
    """Everything about one codebase."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        roots = {mode: Path(folder) / mode for mode in ("bare", "recorded", "checked")}
        lines = [copied(case, sources, root, mode != "bare", preset) for mode, root in roots.items()][1]
        bare, recorded = in_turns(case, sources, roots["bare"], roots["recorded"])
        checked = answer(start(case, sources, roots["checked"], "checked"), roots["checked"])
        for mode, found in (("bare", bare), ("recorded", recorded), ("checked", checked)):
            if found["error"]:
                tail = (roots[mode] / "output.txt").read_text(errors="replace").splitlines()[-25:]
                print(f"--- {case.name}, {mode}: {found['error']}", *tail, sep="\n    ", file=sys.stderr)
    pairs = list(zip(bare["turns"], recorded["turns"], strict=False))[1:]
    ratio = {
        way: statistics.median(r[i] / max(b[i], 1e-9) for b, r in pairs) if pairs else None
        for i, way in enumerate(("wall", "processor"))
    }
    return {
        "name": case.name, "repository": case.repository, "script": case.script, "shape": case.shape, "lines": lines,
        "steps": bare["steps"], "identical": bool(bare["state"]) and bare["state"] == recorded["state"],
        "checked_identical": bare["state"] == checked["state"],
        "errors": {"bare": bare["error"], "recorded": recorded["error"], "checked": checked["error"]},
        "step_seconds": statistics.median(b[0] for b, _ in pairs) / case.turn if pairs else None,
        "ratio": ratio, "turns": len(pairs),
        "first_turn": [one["turns"][0][1] if one["turns"] else None for one in (bare, recorded)],
        "warnings": recorded.get("warnings", []),
        "recordings": checked.get("recordings", []), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def run(asked: Options) -> None:
    """Run the cases that are named, or else those that have no result yet."""
    sources, wanted, preset = asked.more["sources"], asked.more["cases"], asked.more["preset"]
    if sources is None:
        raise InputError("--sources is missing; expected a folder of checkouts as owner+name")
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    child.load()
    results, order = (
        Results(asked.out / (FILE if preset == "standard" else f"{preset}.jsonl")),
        [case.name for case in CASES],
    )
    for case in CASES:
        if not any(part in case.name for part in wanted) if wanted else case.name in results.by("name"):
            continue
        if (result := tried(case, sources, preset)) is None:
            continue
        stamp = machine.stamp()
        where = f"{stamp['machine']}, torch {stamp['torch']}, one thread"
        found = result | {"date": stamp["date"], "revision": revision(), "machine": where}
        print(line(found), flush=True)
        had = results.by("name") | {case.name: found}
        kept = sorted(had.values(), key=lambda one: order.index(one["name"]) if one["name"] in order else 999)
        results.write(kept)
    print(f"{results.path}: {len(results.rows())} of {len(CASES)} cases", file=sys.stderr)


def tried(case: Case, sources: Path, preset: str) -> dict[str, Any] | None:
    """The result of a case; None where the case cannot be run here, which is told."""
    if not (sources / case.repository.replace("/", "+")).is_dir():
        print(f"{case.name}: no checkout of {case.repository} in {sources}", file=sys.stderr)
        return None
    try:
        result = one(case, sources, preset)
    except Missing as error:
        print(error, file=sys.stderr)
        return None
    if result["errors"]["bare"]:  # a package that is not here, or too slow a machine: nothing of gradscope's
        print(f"{case.name}: does not run here without gradscope ({result['errors']['bare']})", file=sys.stderr)
        return None
    return result


def revision() -> str:
    """Of the gradscope that was tried."""
    import gradscope

    folder = str(Path(gradscope.__file__).parent)
    if (told := os.environ.get("GRADSCOPE_WILD_REVISION")) is not None:  # a copy without its history
        return told
    found = subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip()


def line(found: dict[str, Any]) -> str:
    """One result in short."""
    twins = [one.get("twin", {}) for one in found["recordings"]]
    wrong = [text for twin in twins for text in twin.get("wrong", [])]
    worst = max((value for twin in twins for value in twin.get("worst", {}).values()), default=float("nan"))
    errors = [f"{mode}: {text}" for mode, text in found["errors"].items() if text]
    verdicts = ", ".join(one["verdict"] for one in found["recordings"])
    ratio = found["ratio"]["processor"]
    return (
        f"{found['name']}: +{found['lines']} lines, {found['steps']} steps, "
        f"{'identical' if found['identical'] else 'DIFFERENT'}, worst {worst:.1e}, {verdicts}, "
        f"x{ratio if ratio is None else round(ratio, 3)}, {found['seconds']:.0f} s"
        + "".join(f"\n    wrong: {text}" for text in wrong)
        + "".join(f"\n    error: {text}" for text in errors)
        + "".join(f"\n    warned: {text}" for text in found["warnings"])
    )
