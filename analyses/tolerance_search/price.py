"""What a search costs that wants no more precision than the first document's protocol gives."""

from __future__ import annotations

import numpy as np

from analyses.tolerance_search.oracles import Simulated, driven
from analyses.tolerance_search.simulated import HIGH, JUDGES, LOW
from analyses.tolerance_search.tables import Table
from gradscope.tolerance.ask_tell import ToleranceSearch

SLOPES = (0.02, 0.05)
STEPS_AN_EPOCH = 23
#: The median width of the interval that 12 strengths × 3 seeds over four decades leave (peers.csv, "grid, our fit").
PROTOCOL_WIDTH = 0.343
PROTOCOL_RUNS = 36
SEARCHES = 30


def table() -> Table:
    """The recorded result."""
    return Table("price.csv", ("epochs", "slope", "seed", "decades", "trials", "audits", "steps", "share"),
                 ("epochs", "slope", "seed"))  # fmt: skip


def price(made: Table) -> None:
    """Steps of a search as a share of the protocol's, for runs of 50 and 300 epochs. Audits are in them."""
    alarms, misses = JUDGES["real"]
    for seed in range(SEARCHES):
        for epochs in (50, 300):
            for slope in SLOPES:
                if {"epochs": epochs, "slope": slope, "seed": seed} in made:
                    continue
                random = np.random.default_rng([5, seed])
                horizon = epochs * STEPS_AN_EPOCH
                oracle = Simulated(float(random.uniform(-3.5, -0.5)), slope, random, alarms, misses, horizon)
                found = driven(ToleranceSearch(LOW, HIGH, precision=PROTOCOL_WIDTH, seed=seed), oracle)
                steps = sum(t.steps for t in found.told)
                made.add({
                    "epochs": epochs, "slope": slope, "seed": seed, "decades": found.estimate().decades,
                    "trials": len(found.told), "audits": sum(not t.stopped_early for t in found.told), "steps": steps,
                    "share": steps / (PROTOCOL_RUNS * horizon),
                })  # fmt: skip
