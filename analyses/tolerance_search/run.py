"""The study: python -m analyses.tolerance_search.run [--only PART]. Resumable: what a table holds is not done again."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from analyses.tolerance_search import delayed, peers, price, simulated, training

#: The width that the first document's protocol gives (12 strengths over the same three decades: see the README).
PROTOCOL = 0.27
DEPTHS = (6, 8, 10, 12)


def searches() -> None:
    """The protocol's precision in runs of 50 and of 300 epochs, five searches each; then ±.05 decades by depth."""
    made = training.searches()
    for seed in range(5):
        training.search(made, 8, 50, PROTOCOL, seed)
        training.search(made, 8, 300, PROTOCOL, seed)
        for layers in DEPTHS:
            training.search(made, layers, 50, 0.1, seed)


PARTS: dict[str, Callable[[], None]] = {
    "searches": searches,
    "grid": lambda: training.run_grid(training.grid()),
    "delayed": lambda: delayed.run(delayed.searches(), delayed.grid()),
    "long": lambda: training.run_long_grid(training.long_grid()),
    "optuna": lambda: training.run_optuna(training.optuna_runs()),
    "peers": lambda: peers.compare(peers.table()),
    "price": lambda: price.price(price.table()),
    "simulated": lambda: simulated.simulate(simulated.table()),
}


def main() -> None:
    """All parts, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    for name in parser.parse_args().only:
        PARTS[name]()


if __name__ == "__main__":
    main()
