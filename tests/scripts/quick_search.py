"""A search whose trials take no time: it is killed at random moments, and has to go on where it was.

    python quick_search.py FOLDER TRIALS SECONDS [tune]

No training and no torch: a trial writes a small record of its own making, so that fifty searches take no hour.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.trials.journal import Journal
from gradscope.trials.runner import Runner
from gradscope.trials.trial import Trial
from gradscope.tuning.ask_tell import StrengthTuning

SETTINGS = {"command": "quick", "penalty": "l2", "low": 1e-3, "high": 1.0, "seed": 0}


def trial(plan: Trial, path: Path, seconds: float) -> Trial:
    """Fails above .03, and takes note of having been run to its end."""
    time.sleep(seconds)
    failed = float(plan.strength > 0.03)
    path.write_text("a record")
    with (path.parent / "finished.txt").open("a") as file:
        file.write(f"{plan.number}\n")
    verdict = "collapsed" if failed else "healthy"
    return plan.over(
        failed, 100, epochs=4, stopped_early=True, verdict=verdict, path=str(path), fingerprint=(plan.seed + 1.0,),
        value=0.9 + plan.strength,
    )  # fmt: skip


def main() -> None:
    """One search, four trials at a time."""
    folder, trials, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    folder.mkdir(exist_ok=True)
    level, search = "tolerance", ToleranceSearch(1e-3, 1.0, precision=1e-3, max_trials=trials)
    if sys.argv[4:] == ["tune"]:
        level, search = "tune", StrengthTuning(1e-3, 1.0, max_trials=trials)
    journal = Journal(folder, SETTINGS)
    with ThreadPoolExecutor(4) as pool:

        def start(_: object, plan: Trial, path: Path) -> Future[Trial]:
            return pool.submit(trial, plan, path, seconds)

        Runner(start, pool, 4, journal, folder).level(level, search)
    print(len(search.told))


if __name__ == "__main__":
    main()
