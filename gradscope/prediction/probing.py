"""Run the probes that are asked for, one after the other, and read what they record."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from gradscope.prediction.ask_tell import Plan, Prober
from gradscope.prediction.rows import invariant_share, probe_of
from gradscope.processes.child import run_child
from gradscope.processes.command import Command, check_strength
from gradscope.processes.instructions import Instructions, Stopped, instructed
from gradscope.quantities import Strength
from gradscope.store.record import Record
from gradscope.trials.run_trial import check_record
from gradscope.trials.trial import Train, check_seeds
from gradscope.types import InputError

#: ``run(plan, path)`` leaves the record of a probe at the path, and says who has trained.
Run = Callable[[Plan, Path], str]


@dataclass(frozen=True)
class ProbeResult:
    """Probe that was run.

    Attributes:
        strength: λ, 0 without a penalty.
        seed: of the run.
        steps: that were run.
        path: its record.
        distance: log₁₀(λ/λ*) as it reads, None without a penalty.
        delay: of these steps, those before the penalty came on.
    """

    strength: float
    seed: int
    steps: int
    path: str
    distance: float | None = None
    delay: int = 0


def _schedule(plan: Plan) -> str | None:
    """Return the schedule of a plan, as text; None where the penalty is on from the start."""
    return f"delayed:{plan.delay}steps" if plan.delay else None


def _asked(plan: Plan) -> Instructions:
    return Instructions(
        schedule=_schedule(plan), on_failure="ignore", on_success="ignore", probe_steps=plan.steps,
        probe_until=plan.until,
    )  # fmt: skip


def of_command(command: Command, where: Executor | None = None) -> Run:
    """Return a runner of probes that starts a training command for each, which ends once it has its rows.

    Args:
        command: the training command.
        where: runs the processes; None: each is a child of this process.

    Returns:
        A function of a plan and a path.
    """

    def run(plan: Plan, path: Path) -> str:
        asked = Instructions(
            **{name: value for name, value in vars(_asked(plan)).items() if value is not None}
            | {"strength": plan.strength, "penalty": command.penalty, "seed": plan.seed, "out": str(path)}
        )
        words = command.filled(asked)
        told = command.environment(asked)
        outcome = run_child(words, told) if where is None else where.submit(run_child, words, told).result()
        if not outcome.ended_itself:
            raise InputError(f"a probe could not be run: {outcome.complaint(words)}")
        return " ".join(words)

    return run


def of_function(train: Train) -> Run:
    """Return a runner of probes that calls a plain function ``train(strength, seed, path)`` in this process."""

    def run(plan: Plan, path: Path) -> str:
        with instructed(_asked(plan)):
            try:
                train(plan.strength, plan.seed, path)
            except Stopped:
                pass
            except InputError:
                raise
            except Exception as error:
                told = f"train({plan.strength:g}, {plan.seed}, …) raised {type(error).__name__}: {error}"
                raise InputError(f"a probe could not be run: {told}") from error
        return "the training function"

    return run


def probed(prober: Prober, run: Run, folder: Path, told: Callable[[ProbeResult], None]) -> list[ProbeResult]:
    """Run every probe that the prober asks for, in order; raise `InputError` for a training that cannot be probed."""
    results: list[ProbeResult] = []
    starts: list[tuple[int, tuple[float, ...]]] = []
    while not prober.done:
        plan = prober.ask()
        path = folder / f"probe-{plan.number}.h5"
        path.unlink(missing_ok=True)
        who = run(plan, path)
        check_record(path, who)
        with Record(path) as record:
            if not record.rows:
                raise InputError(f"{path.name} holds no step: {who!r} ended before the first one")
            check_strength(path, Strength(plan.strength, prober.penalty), record.strength, record.schedule)
            delays = [part for part in re.split(r"[+*]", record.schedule) if part.startswith("delayed:")]
            if delays not in ([], [_schedule(plan)]):
                raise InputError(
                    f"the script's own penalty comes on later ({record.schedule}), and a probe reads its steps from "
                    f"{plan.delay} to {plan.steps}"
                )
            probe = probe_of(record, prober.penalty)
            prober.horizon = record.horizon
            starts.append((plan.seed, tuple(float(x) for x in probe.weight_size[0])))
            check_seeds(starts)
            before = len(prober.told)
            prober.tell(plan, probe, invariant_share(record))
            distance = prober.told[-1][1] if len(prober.told) > before else None
            steps = record.steps_run
        results.append(ProbeResult(plan.strength, plan.seed, steps, str(path), distance, plan.delay))
        told(results[-1])
    return results
