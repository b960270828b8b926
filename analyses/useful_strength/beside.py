"""Optuna alone, beside `tune`: its own sampler, and a median pruner that sees the metric after every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analyses.useful_strength.tasks import Task, accuracies


@dataclass(frozen=True)
class Study:
    """What a study of Optuna's came to. ``trials``: strength, steps and the last metric, None where it was pruned."""

    strength: float
    value: float
    steps: int
    trials: list[tuple[float, int, float | None]]


def optuna_alone(task: Task, seed: int, steps: int, patient: bool = False) -> Study:
    """Run trials until they have taken so many steps, all with Optuna's defaults and one seed of the training.

    The last trial is run to its end or pruned, as the others. The strength is the best trial's. ``patient``: nothing is
    pruned in the first half of a run, which by the defaults happens from the first epoch on.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=task.epochs // 2 if patient else 0)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    seen: list[tuple[float, int, float | None]] = []

    def objective(trial: optuna.Trial) -> float:
        strength, value = trial.suggest_float("strength", task.low, task.high, log=True), math.nan
        for epoch, value in enumerate(accuracies(task, strength, seed)):
            trial.report(value, epoch)
            if epoch + 1 < task.epochs and trial.should_prune():
                seen.append((strength, (epoch + 1) * task.steps_per_epoch, None))
                raise optuna.TrialPruned
        seen.append((strength, task.steps, value))
        return value

    def spent(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        if sum(taken for _, taken, _ in seen) >= steps:
            study.stop()

    study.optimize(objective, callbacks=[spent])
    best = study.best_trial
    return Study(float(best.params["strength"]), float(study.best_value), sum(taken for _, taken, _ in seen), seen)
