"""What a prediction would save a search, simulated: python -m analyses.prediction.saved (a few core-minutes).

The search itself, ask and tell, on known curves; the prediction errs as those of results.csv did, families held out.
"""

from __future__ import annotations

import csv
import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np

from analyses.common.machine import machine
from analyses.common.markdown import markdown
from analyses.tolerance_search.oracles import Simulated, driven
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import Predicted

HERE = Path(__file__).parent
#: The slope of the curves, in decades.
SLOPE = 0.03
#: The range that is asked for, and how many searches are simulated.
LOW, HIGH, SEARCHES = 1e-4, 1.0, 60
#: The half-width of a prediction's interval after three probes, in decades.
HALF = 0.375
PRECISIONS = (0.34, 0.1)


def simulated(precision: float, predicts: bool, errors: list[float], number: int) -> dict[str, Any]:
    """One search on a level between a decade above the range's lower end and one below its upper."""
    random = np.random.default_rng([24, number])
    level = random.uniform(math.log10(LOW) + 1, math.log10(HIGH) - 1)
    error = float(random.choice(errors))
    search = ToleranceSearch(LOW, HIGH, precision=precision, seed=number)
    if predicts:
        search.expect(Predicted.from_interval(10 ** (level + error), 10 ** (level + error + HALF)))
    driven(search, Simulated(level, SLOPE, random))
    found = search.estimate()
    inside = found.low is not None and found.high is not None and found.low <= 10**level <= found.high
    steps = sum(trial.steps for trial in search.told)
    return {"trials": len(search.told), "steps": steps, "inside": inside, "determined": found.determined}


def main() -> None:
    """Simulate, and write saved.md."""
    with (HERE / "results.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["penalty"] == "l2" and r["optimizer"] != "adam"]
    errors, spent = [float(r["error"]) for r in rows], float(np.median([int(r["steps"]) for r in rows]))
    lines = []
    for precision in PRECISIONS:
        for predicts in (False, True):
            made = [simulated(precision, predicts, errors, n) for n in range(SEARCHES)]
            trials = float(np.mean([m["trials"] for m in made]))
            steps = float(np.mean([m["steps"] for m in made])) + (spent if predicts else 0)
            covered = np.mean([m["inside"] for m in made if m["determined"]])
            lines.append([f"{precision:g}", "flat and normal" if predicts else "flat", f"{trials:.1f}", f"{steps:.0f}",
                          f"{covered:.3f}", f"{np.mean([not m['determined'] for m in made]):.3f}"])  # fmt: skip
            print(lines[-1], flush=True)
    columns = ["decades to reach", "prior", "trials", "steps with the probes", "coverage", "not determined"]
    said = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine()}: `python -m analyses.prediction.saved`, "
    said += f"{SEARCHES} searches a line, slope {SLOPE:g}, 110 or 150 steps a trial that is ended early\n\n"
    (HERE / "saved.md").write_text(said + markdown(columns, lines) + "\n")


if __name__ == "__main__":
    main()
