"""What a prediction would save a search, simulated.

The search itself, ask and tell, on known curves; the prediction errs as those of the study did, families held out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analyses.common.markdown import markdown
from analyses.prediction.equal_steps import SLOPE
from analyses.prediction.held_out import Found
from analyses.tolerance_search.oracles import Simulated, driven
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import Predicted

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


def saved(found: Found) -> str:
    """With a prediction, and without one."""
    results = [r for _, some, _ in found.values() for r in some]
    kinds = [(r, r.case.configuration) for r in results]
    told = [r for r, c in kinds if c.penalty == "l2" and c.optimizer != "adam"]
    # To four digits, as results.csv holds them.
    errors, spent = [float(f"{r.error:.4g}") for r in told], float(np.median([r.steps[r.ended - 1] for r in told]))
    lines = []
    for precision in PRECISIONS:
        for predicts in (False, True):
            made = [simulated(precision, predicts, errors, n) for n in range(SEARCHES)]
            trials = float(np.mean([m["trials"] for m in made]))
            steps = float(np.mean([m["steps"] for m in made])) + (spent if predicts else 0)
            covered = np.mean([m["inside"] for m in made if m["determined"]])
            lines.append([f"{precision:g}", "flat and normal" if predicts else "flat", f"{trials:.1f}", f"{steps:.0f}",
                          f"{covered:.3f}", f"{np.mean([not m['determined'] for m in made]):.3f}"])  # fmt: skip
    columns = ["decades to reach", "prior", "trials", "steps with the probes", "coverage", "not determined"]
    said = "Written by `python -m analyses plot prediction` from the errors of results.csv: "
    said += f"{SEARCHES} searches a line, slope {SLOPE:g}, 110 or 150 steps a trial that is ended early\n\n"
    return said + markdown(columns, lines) + "\n"
