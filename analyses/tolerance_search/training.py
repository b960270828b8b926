"""Real training: searches, the brute-force grids they have to agree with, depth, and Optuna with a median pruner."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common.digits import Setting, network, train
from analyses.tolerance_search.oracles import Trained, driven
from analyses.tolerance_search.tables import Table
from gradscope.demo.data import digits
from gradscope.diagnosis.post_hoc import judge_record
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.trials.run_trial import early_word

LOW, HIGH = 1e-3, 1.0
LR, INIT = 0.03, "he"
STEPS_AN_EPOCH = 23
#: 8 layers, 50 epochs: recorded runs to the horizon, to check the judge's early word as well.
GRID = tuple(float(f"{0.0335 * 10 ** (0.05 * k):.4g}") for k in range(-7, 10))
GRID_SEEDS = 8
#: 300 epochs, plain runs without a recording.
LONG = tuple(float(f"{0.0335 * 10 ** (0.1 * k):.4g}") for k in range(-3, 6))
LONG_SEEDS = 4


def setting(layers: int, strength: float, seed: int, epochs: int) -> Setting:
    """The small MLP on the digits: He initialisation, lr .03."""
    return Setting(layers, INIT, LR, strength, seed, epochs=epochs)


def trial(layers: int, epochs: int, strength: float, seed: int, path: Path) -> None:
    """As a search calls it; seeds of searches do not meet those of grids."""
    train(setting(layers, strength, 10_000 + seed, epochs), path)


# -- searches -------------------------------------------------------------------------------------

SEARCH_COLUMNS = (
    "layers", "epochs", "precision", "seed", "tolerance", "low", "high", "slope", "safe", "trials", "audits", "steps",
    "seconds",
)  # fmt: skip


def searches() -> Table:
    """The recorded result."""
    return Table("searches.csv", SEARCH_COLUMNS, ("layers", "epochs", "precision", "seed"))


def search(made: Table, layers: int, epochs: int, precision: float, seed: int) -> None:
    """One search on real training, unless the table holds it."""
    key = {"layers": layers, "epochs": epochs, "precision": precision, "seed": seed}
    if key in made:
        return
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        oracle = Trained(functools.partial(trial, layers, epochs), Path(folder))
        found = driven(ToleranceSearch(LOW, HIGH, precision=precision, seed=seed), oracle)
    e = found.estimate()
    horizon = epochs * STEPS_AN_EPOCH
    row = {"tolerance": e.tolerance or math.nan, "low": e.low or math.nan, "high": e.high or math.nan}
    row |= {"slope": e.slope or math.nan, "safe": e.safe or math.nan, "trials": len(found.told)}
    row |= {"audits": sum(not t.stopped_early and t.steps == horizon for t in found.told)}
    row |= {"steps": sum(t.steps for t in found.told), "seconds": time.process_time() - started}
    made.add({**key, **row})


# -- brute force ----------------------------------------------------------------------------------


def grid() -> Table:
    """Recorded runs to the horizon: the label, and what the judge would have said early."""
    return Table("grid.csv", ("strength", "seed", "failed", "early"), ("strength", "seed"))


def run_grid(made: Table) -> None:
    """8 layers, 50 epochs; seeds in turn, so that it can be cut off."""
    for seed in range(GRID_SEEDS):
        for strength in GRID:
            if {"strength": strength, "seed": seed} in made:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "run.h5"
                train(setting(8, strength, seed, 50), path)
                with gradscope.open_run(path) as dataset:
                    judge = judge_record(dataset)
            early = {True: "failed", False: "learned", None: "none"}[early_word(judge)]
            made.add({"strength": strength, "seed": seed, "failed": int(not judge.learned()), "early": early})


def long_grid() -> Table:
    """Plain runs of 300 epochs."""
    return Table("grid_300.csv", ("strength", "seed", "failed"), ("strength", "seed"))


def run_long_grid(made: Table) -> None:
    """8 layers, 300 epochs; seeds in turn."""
    for seed in range(LONG_SEEDS):
        for strength in LONG:
            if {"strength": strength, "seed": seed} not in made:
                losses = plain(setting(8, strength, seed, 300))
                last = np.mean(losses[-len(losses) // 20 :])
                made.add({"strength": strength, "seed": seed, "failed": int(last > 0.95 * math.log(10))})


def plain(given: Setting, watch: Callable[[int, float], bool] | None = None) -> list[float]:
    """The same training as a bare loop: coupled weight decay on the weights alone. Returns the losses.

    A network whose every weight is below 1e-20 cannot come back; the rest of its run is not computed.
    """
    torch.set_num_threads(1)
    data = digits()
    torch.manual_seed(given.seed)
    model = network(given.layers, given.width, given.init)
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 2 * given.strength}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=given.lr, momentum=0.9)
    losses: list[float] = []
    for epoch in range(given.epochs):
        for batch in torch.randperm(len(data.x)).split(64):
            loss = cross_entropy(model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if watch is not None and watch(epoch, float(np.mean(losses[-STEPS_AN_EPOCH:]))):
            return losses
        if max(float(w.detach().abs().max()) for w in weights) < 1e-20:
            return losses + losses[-1:] * (STEPS_AN_EPOCH * (given.epochs - epoch - 1))
    return losses


# -- Optuna ---------------------------------------------------------------------------------------


def optuna_runs() -> Table:
    """The recorded result."""
    return Table("optuna.csv", ("seed", "best", "trials", "pruned", "steps"), ("seed",))


def run_optuna(made: Table, seeds: int = 3, trials: int = 25) -> None:
    """TPE for the largest strength that learns, 50 epochs, median pruner on the score that the loss gives so far."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for seed in range(seeds):
        if {"seed": seed} not in made:
            made.add({"seed": seed, "trials": trials, **optuna_search(seed, trials)})


def optuna_search(seed: int, trials: int) -> dict[str, float | int]:
    """One study. The score is log₁₀ λ while the loss is below the baseline, and beneath the range while it is not."""
    import optuna

    steps = 0

    def score_of(x: float, loss: float) -> float:
        return x if loss < 0.95 * math.log(10) else math.log10(LOW) - 1

    def objective(trial: optuna.Trial) -> float:
        nonlocal steps
        x = trial.suggest_float("x", math.log10(LOW), math.log10(HIGH))

        def watch(epoch: int, loss: float) -> bool:
            trial.report(score_of(x, loss), epoch)
            return bool(trial.should_prune())

        losses = plain(setting(8, 10**x, 20_000 + 100 * seed + trial.number, 50), watch)
        steps += len(losses)
        if len(losses) < 50 * STEPS_AN_EPOCH:
            raise optuna.TrialPruned
        return score_of(x, float(np.mean(losses[-len(losses) // 20 :])))

    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner())
    study.optimize(objective, n_trials=trials)
    pruned = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
    return {"best": 10**study.best_value, "pruned": pruned, "steps": steps}
