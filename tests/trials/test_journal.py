"""Nothing is lost: a search that is killed at any moment goes on, and repeats no finished trial."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gradscope import InputError
from gradscope.processes.worker import WorkerLostError
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.trials.journal import Journal
from gradscope.trials.run_trial import TrialCrashedError
from gradscope.trials.runner import LOST_IN_A_ROW, Runner
from gradscope.trials.trial import Trial
from tests.helpers.paths import SCRIPTS

SCRIPT = SCRIPTS / "quick_search.py"
SETTINGS = {"command": "x", "penalty": "l2", "low": 0.001, "high": 1.0, "seed": 0}


def finished(plan: Trial, path: Path, **other: Any) -> Trial:
    values: dict[str, Any] = {
        "path": str(path), "verdict": "collapsed" if plan.strength > 0.03 else "healthy",
        "failed": float(plan.strength > 0.03),
        "steps": 100, "epochs": 4, "stopped_early": True, "fingerprint": (float(plan.seed),), **other,
    }  # fmt: skip
    return plan.over(**values)


def entries(folder: Path) -> list[dict[str, Any]]:
    """The journal's lines; a torn last one is left out."""
    lines = (folder / "search.jsonl").read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def killed_again_and_again(folder: Path, kills: int, trials: int, seed: int, level: str = "tolerance") -> None:
    """Kill the search after random times, so often, and then let it end; check the journal after every kill."""
    draw = random.Random(seed)
    words = [sys.executable, str(SCRIPT), str(folder), str(trials), "0.05", *(["tune"] if level == "tune" else [])]
    before: list[dict[str, Any]] = []
    for _ in range(kills):
        search = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        _wait_for_more(folder, before, search)
        time.sleep(draw.uniform(0, 0.12))  # anywhere in the life of a trial
        search.kill()
        search.wait()
        now = entries(folder)
        assert now[: len(before)] == before
        before = now
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    after = entries(folder)
    assert after[: len(before)] == before
    numbers = [e["trial"]["number"] for e in after if "trial" in e]
    assert len(numbers) == len(set(numbers)) == int(printed) == trials
    asked = [e["asked"] for e in after if "asked" in e]
    drawn = {plan["seed"] for plan in asked} if level == "tolerance" else {plan["number"] for plan in asked}
    assert len(drawn) == len(asked)  # no seed is drawn twice; in pairs of runs, no number
    ran = [int(line) for line in (folder / "finished.txt").read_text().split()]
    assert len(ran) == len(set(ran))  # no trial was run to its end twice
    assert set(numbers) <= set(ran)
    left = {path.name for path in folder.glob("*.h5")}
    assert left == {f"{level}-{number:03d}.h5" for number in numbers}


def _wait_for_more(folder: Path, before: list[dict[str, Any]], search: subprocess.Popen[bytes]) -> None:
    journal = folder / "search.jsonl"
    size = journal.stat().st_size if before else 0
    deadline = time.monotonic() + 60
    while search.poll() is None and not (journal.exists() and journal.stat().st_size > size):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.thorough
def test_a_few_kills(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path / "s", kills=2, trials=14, seed=0)


@pytest.mark.thorough
def test_a_tuning_is_killed_too(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path / "s", kills=2, trials=14, seed=2, level="tune")


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path / "s", kills=50, trials=200, seed=1)


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    plans = [Trial(k, 0.01 * (k + 1), k, False) for k in range(3)]
    for plan in plans:
        journal.ask("tolerance", plan)
    journal.add("tolerance", finished(plans[0], tmp_path / "0.h5"))
    journal.lose("tolerance", plans[1].lost("killed"))
    journal.close()
    whole = journal.path.read_bytes()
    for cut in range(len(whole) + 1):  # killed at any byte
        journal.path.write_bytes(whole[:cut])
        again = Journal(tmp_path, SETTINGS)
        complete = whole[:cut].count(b"\n")
        assert len(again.trials.get("tolerance", [])) == (complete >= 5)
        assert again.lost.get("tolerance", []) == ([1] if complete >= 6 else [])
        assert len(again.asked.get("tolerance", [])) == max(0, min(3, complete - 1))
        again.ask("tolerance", plans[2])  # and can be written to again
        again.close()
        assert json.loads(journal.path.read_bytes().splitlines()[-1])["asked"]["number"] == 2
    journal.path.write_bytes(whole)
    again = Journal(tmp_path, SETTINGS)
    assert again.unfinished("tolerance") == [2]
    assert again.trials["tolerance"] == [finished(plans[0], tmp_path / "0.h5")]
    again.close()


def test_one_search_at_a_time_in_a_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    with pytest.raises(InputError, match="another search is under way in"):
        Journal(tmp_path, SETTINGS)
    journal.close()
    Journal(tmp_path, SETTINGS).close()


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, SETTINGS).close()
    with pytest.raises(InputError, match="holds a search with penalty 'l2', and this one has 'l1'"):
        Journal(tmp_path, {**SETTINGS, "penalty": "l1"})
    for text in ("[1, 2]\n", '{"settings": {}}\n{"level": "tolerance", "trial": {"number": 1}}\n', "no json\n"):
        (tmp_path / "search.jsonl").write_text(text)
        with pytest.raises(InputError, match="is not the journal of a search"):
            Journal(tmp_path, SETTINGS)


# -- trials that come to nothing ------------------------------------------------------------------


def searched(folder: Path, outcomes: dict[int, Exception], trials: int = 12) -> list[str]:
    """A search in which these trials raise; returns what it says of lost ones."""
    said: list[str] = []
    search = ToleranceSearch(1e-3, 1.0, precision=1e-3, max_trials=trials)
    journal = Journal(folder, SETTINGS)

    def run(plan: Trial, path: Path) -> Trial:
        if plan.number in outcomes:
            raise outcomes[plan.number]
        return finished(plan, path)

    try:
        with ThreadPoolExecutor(1) as pool:
            start = lambda executor, plan, path: executor.submit(run, plan, path)  # noqa: E731
            runner = Runner(start, pool, 1, journal, folder)
            runner.level("tolerance", search, lambda trial, lost: said.append(lost or ""))
    finally:
        journal.close()
    assert len(search.told) + search.lost == trials
    return [line for line in said if line]


def test_a_lost_trial_costs_that_trial_alone(tmp_path: Path) -> None:
    lost = {0: WorkerLostError("killed by signal 9"), 4: TrialCrashedError("exited with code 1: out of memory")}
    said = searched(tmp_path, {**lost, 5: WorkerLostError("not over after 3 s, and stopped")})
    assert len(said) == 3
    assert said[0].startswith("trial 0 (")
    assert said[0].endswith("is lost: killed by signal 9")
    reasons = [e["lost"]["reason"] for e in entries(tmp_path) if "lost" in e]
    assert reasons[1] == "exited with code 1: out of memory"
    assert searched(tmp_path, {}, trials=13) == []  # goes on, and neither repeats nor forgets them
    assert sum("lost" in e for e in entries(tmp_path)) == 3


def test_a_command_that_never_works_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be run: exited with code 1"):
        searched(tmp_path / "a", _made(tmp_path / "a", {0: TrialCrashedError("exited with code 1")}))
    dying: dict[int, Exception] = {k: WorkerLostError("killed by signal 9") for k in range(LOST_IN_A_ROW)}
    with pytest.raises(InputError, match="could not be run, 3 times in a row: killed by signal 9"):
        searched(tmp_path / "b", _made(tmp_path / "b", dying))
    later: dict[int, Exception] = {k: TrialCrashedError("exited with code 1") for k in (5, 6, 7)}
    with pytest.raises(InputError, match="3 times in a row"):
        searched(tmp_path / "c", _made(tmp_path / "c", later))


def _made(folder: Path, outcomes: dict[int, Exception]) -> dict[int, Exception]:
    folder.mkdir()
    return outcomes


def test_an_executor_that_breaks_is_one_clear_line(tmp_path: Path) -> None:
    search, journal = ToleranceSearch(1e-3, 1.0), Journal(tmp_path, SETTINGS)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    runner = Runner(lambda executor, *_: executor.submit(print), pool, 1, journal, tmp_path)
    with pytest.raises(InputError, match=r"takes no more trials \(RuntimeError: .*the same command goes on"):
        runner.level("tolerance", search)
    journal.close()
