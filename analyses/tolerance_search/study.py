"""The search of the tolerance level: do its intervals keep their promise, at what price, and what do others give?"""

from __future__ import annotations

from analyses.common.study import Part, Study
from analyses.tolerance_search import delayed, peers, plot, price, simulated, slopes, training

STUDY = Study(
    "tolerance_search",
    {
        "searches": Part(training.searches, training.search, "searches.csv"),
        "grid": Part(training.grid, training.whole, "grid.csv"),
        "delayed": Part(delayed.searches, delayed.search, "delayed.csv"),
        "delayed-grid": Part(delayed.grid, delayed.full, "delayed_grid.csv"),
        "long": Part(training.long_grid, training.long, "grid_300.csv"),
        "optuna": Part(training.optuna_runs, training.optuna_search, "optuna.csv"),
        "peers": Part(peers.cells, peers.compare, "peers.csv", here=True),
        "price": Part(price.cells, price.price, "price.csv", here=True),
        "simulated": Part(simulated.cells, simulated.simulate, "simulated.csv", here=True),
        "slopes": Part(slopes.cells, slopes.search, "slopes.csv", here=True),
    },
    plot.tables,
    plot.figures,
)
