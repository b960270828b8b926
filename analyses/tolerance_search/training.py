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
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.tolerance_search.oracles import Trained, driven, rounded
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

#: The width that the first document's protocol gives (12 strengths over the same three decades: see the README).
PROTOCOL = 0.27
DEPTHS = (6, 8, 10, 12)


def searches(asked: Options) -> list[Cell]:
    """The protocol's precision in runs of 50 and of 300 epochs, five searches each; then ±.05 decades by depth."""
    kinds = [(8, 50, PROTOCOL), (8, 300, PROTOCOL), *((layers, 50, 0.1) for layers in DEPTHS)]
    return [
        {"layers": layers, "epochs": epochs, "precision": precision, "seed": seed}
        for seed in range(5)
        for layers, epochs, precision in kinds
    ]


def search(cell: Cell, asked: Options) -> Row:
    """One search on real training."""
    layers, epochs, started = cell["layers"], cell["epochs"], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        oracle = Trained(functools.partial(trial, layers, epochs), Path(folder))
        found = driven(ToleranceSearch(LOW, HIGH, precision=cell["precision"], seed=cell["seed"]), oracle)
    e, horizon = found.estimate(), epochs * STEPS_AN_EPOCH
    known = {name: getattr(e, name) or math.nan for name in ("tolerance", "low", "high", "slope", "safe")}
    return rounded(
        **known, trials=len(found.told), audits=sum(not t.stopped_early and t.steps == horizon for t in found.told),
        steps=sum(t.steps for t in found.told), seconds=time.process_time() - started,
    )  # fmt: skip


# -- brute force ----------------------------------------------------------------------------------


def grid(asked: Options) -> list[Cell]:
    """8 layers, 50 epochs; seeds in turn, so that it can be cut off."""
    return [{"strength": strength, "seed": seed} for seed in range(GRID_SEEDS) for strength in GRID]


def whole(cell: Cell, asked: Options) -> Row:
    """A recorded run to the horizon: the label, and what the judge would have said early."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        train(setting(8, cell["strength"], cell["seed"], 50), path)
        with gradscope.open_run(path) as dataset:
            judge = judge_record(dataset)
    early = {True: "failed", False: "learned", None: "none"}[early_word(judge)]
    return {"failed": int(not judge.learned()), "early": early}


def long_grid(asked: Options) -> list[Cell]:
    """8 layers, 300 epochs; seeds in turn."""
    return [{"strength": strength, "seed": seed} for seed in range(LONG_SEEDS) for strength in LONG]


def long(cell: Cell, asked: Options) -> Row:
    """A plain run of 300 epochs."""
    losses = plain(setting(8, cell["strength"], cell["seed"], 300))
    return {"failed": int(np.mean(losses[-len(losses) // 20 :]) > 0.95 * math.log(10))}


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


def optuna_runs(asked: Options) -> list[Cell]:
    """Three searches."""
    return [{"seed": seed} for seed in range(3)]


def optuna_search(cell: Cell, asked: Options, trials: int = 25) -> Row:
    """TPE for the largest strength that learns, 50 epochs, median pruner on the score that the loss gives so far.

    The score is log₁₀ λ while the loss is below the baseline, and beneath the range while it is not.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed, steps = cell["seed"], 0

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
    return rounded(best=10**study.best_value, trials=trials, pruned=pruned, steps=steps)
