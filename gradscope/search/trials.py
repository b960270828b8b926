"""One trial: a training run at one strength with one seed, judged from its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np

from gradscope import child
from gradscope.child import Command, Instructions, Stopped, check_strength, instructed, run_child
from gradscope.diagnosis.post_hoc import diagnose
from gradscope.diagnosis.tolerance import recorded_strength
from gradscope.search.asker import Plan
from gradscope.store.reader import open_run
from gradscope.types import InputError, Verdict

Train = Callable[[float, int, Path], object]


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial. ``fingerprint``: the sizes of the weights at the first row."""

    number: int
    strength: float
    seed: int
    audit: bool
    path: str
    verdict: str
    failed: float
    steps: int
    epochs: int | None
    stopped_early: bool
    fingerprint: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrialResult:
        return cls(**{**values, "fingerprint": tuple(values["fingerprint"])})


def run_command_trial(
    command: Command,
    plan: Plan,
    path: Path,
    schedule: str | None,
    timeout: float | None,
    on_start: Callable[[Popen[bytes]], None] | None = None,
) -> TrialResult:
    """A trial in a process of its own."""
    asked = Instructions(
        strength=plan.strength,
        penalty=command.penalty,
        schedule=schedule,
        seed=plan.seed,
        out=str(path.resolve()),
        on_failure="stop",
        on_success="ignore" if plan.audit else "stop",
    )
    words = command.filled(asked)
    outcome = run_child(words, command.environment(asked), show=False, timeout=timeout, on_start=on_start)
    if not outcome.ended_itself:
        raise InputError(outcome.complaint(words))
    return _read(plan, path, outcome.code == child.EXIT_STOPPED, command.penalty, " ".join(words))


def run_function_trial(train: Train, plan: Plan, path: Path, penalty: str, schedule: str | None) -> TrialResult:
    """A trial of a plain function ``train(strength, seed, path)`` in this process."""
    asked = Instructions(schedule=schedule, on_failure="stop", on_success="ignore" if plan.audit else "stop")
    stopped = False
    with instructed(asked):
        try:
            train(plan.strength, plan.seed, path)
        except Stopped:
            stopped = True
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"train({plan.strength:g}, {plan.seed}, …) raised {type(error).__name__}: {error}"
            ) from error
    return _read(plan, path, stopped, penalty, "the training function")


def _read(plan: Plan, path: Path, stopped: bool, penalty: str, who: str) -> TrialResult:
    if not path.exists():
        raise InputError(
            f"{who!r} ended without the record {path.name}; does it call gradscope.record "
            f"(and write to {{out}}, if it takes a path)?"
        )
    with open_run(path) as dataset:
        diagnosis = diagnose(dataset)
        found = recorded_strength(dataset)
        when = json.loads(dataset.attrs["config"])["schedule"]
        check_strength(path, plan.strength, penalty, found, dataset.attrs["penalty"], when)
        steps = int(dataset["step"].values[-1]) + 1
        last_epoch = int(dataset["epoch"].values[-1])
        first = dataset["weight_mean_abs"].isel(step=0).values
        if diagnosis.verdict is Verdict.DIVERGED and diagnosis.onset_step == 0:
            raise InputError(
                f"{who!r} is not finite from its first step (seed {plan.seed}): no matter of the strength; "
                f"check the data, the learning rate and the initialisation"
            )
        if diagnosis.verdict is Verdict.UNDECIDED:
            raise InputError(f"{path.name} shows no outcome: {'; '.join(diagnosis.evidence)}")
    # Without the penalty's doing a failed run says nothing about the penalty.
    blamed = diagnosis.verdict is Verdict.COLLAPSED or (diagnosis.failed and found > 0)
    return TrialResult(
        plan.number, plan.strength, plan.seed, plan.audit, str(path), str(diagnosis.verdict),
        0.98 if blamed else 0.5 if diagnosis.failed else 0.02, steps,
        last_epoch + 1 if last_epoch >= 0 else None, stopped, tuple(float(x) for x in np.nan_to_num(first)),
    )  # fmt: skip


def check_seeds(results: list[TrialResult]) -> None:
    """Two seeds that start from the same weights: the script does not use its seed."""
    seen: dict[tuple[float, ...], int] = {}
    for result in results:
        other = seen.setdefault(result.fingerprint, result.seed)
        if other != result.seed:
            raise InputError(
                f"seeds {other} and {result.seed} start from identical weights: the training ignores its seed; "
                f"pass {{seed}} to it, or call torch.manual_seed(int(os.environ['GRADSCOPE_SEED'])) before "
                f"the model is made"
            )
