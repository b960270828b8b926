"""What a search costs that wants no more precision than the first document's protocol gives."""

from __future__ import annotations

import numpy as np

from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.tolerance_search.oracles import Simulated, driven, rounded
from analyses.tolerance_search.simulated import HIGH, JUDGES, LOW
from gradscope.tolerance.ask_tell import ToleranceSearch

SLOPES = (0.02, 0.05)
STEPS_AN_EPOCH = 23
#: The median width of the interval that 12 strengths × 3 seeds over four decades leave (peers.csv, "grid, our fit").
PROTOCOL_WIDTH = 0.343
PROTOCOL_RUNS = 36
SEARCHES = 30


def cells(asked: Options) -> list[Cell]:
    """Runs of 50 and 300 epochs."""
    return [{"epochs": epochs, "slope": slope, "seed": seed} for seed in range(SEARCHES) for epochs in (50, 300)
            for slope in SLOPES]  # fmt: skip


def price(cell: Cell, asked: Options) -> Row:
    """Steps of a search as a share of the protocol's. Audits are in them."""
    random = np.random.default_rng([5, cell["seed"]])
    horizon = cell["epochs"] * STEPS_AN_EPOCH
    level = float(random.uniform(-3.5, -0.5))
    oracle = Simulated(level, cell["slope"], random, *JUDGES["real"], horizon)
    found = driven(ToleranceSearch(LOW, HIGH, precision=PROTOCOL_WIDTH, seed=cell["seed"]), oracle)
    steps = sum(t.steps for t in found.told)
    return rounded(
        decades=found.estimate().decades, trials=len(found.told), audits=sum(not t.stopped_early for t in found.told),
        steps=steps, share=steps / (PROTOCOL_RUNS * horizon),
    )  # fmt: skip
