"""Restarts inside one process: everything is put back bit for bit, and the loop goes on."""

from __future__ import annotations

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope import InputError
from gradscope.demo.data import digits
from gradscope.recording import LearningFailureWarning
from gradscope.restart.attempt import Attempt
from gradscope.restart.checkpoint import Checkpoint
from gradscope.restart.policy import Decision
from gradscope.restart.resumption import KeptCheckpoints, kept_in, last_healthy
from tests.helpers.twins import same


class Training:
    """A loop with all that has a state: dropout, momentum, a scheduler, four random generators, a counter."""

    def __init__(self, strength: float = 0.3, layers: int = 5) -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 - the global generator is what is tested
        hidden = [m for _ in range(layers - 1) for m in (nn.LazyLinear(32), nn.ReLU())]
        self.model = nn.Sequential(*hidden, nn.Dropout(0.1), nn.LazyLinear(10))
        split = digits()
        self.x, self.y = split.x[:512], split.y[:512]
        self.model(self.x)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.handle = gradscope.regularize(self.optimizer, gradscope.L2(), gradscope.Constant(strength))
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 400)
        self.generator = torch.Generator().manual_seed(5)
        self.seen: dict[str, Any] = {"batches": 0, "draws": []}

    @property
    def state(self) -> list[Any]:
        return [self.scheduler, self.generator, self.seen]

    def epoch(self, run: gradscope.Recording, losses: list[float]) -> None:
        order = torch.randperm(len(self.x), generator=self.generator)
        noise = random.random() + float(np.random.random()) + float(torch.rand(()))  # noqa: NPY002
        self.seen["draws"].append(noise)
        for batch in order.split(64):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.x[batch] + 0.01 * noise), self.y[batch])
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.seen["batches"] += 1
            run.log(loss=loss)
            losses.append(loss.item())


class Twice:
    """A policy that makes the same attempt twice, whatever came of it."""

    text, from_checkpoints = "twice", False

    def __init__(self) -> None:
        self.told: list[Attempt] = []

    def ask(self) -> Decision:
        return Decision(len(self.told) < 2, None, "again")

    def tell(self, attempt: Attempt) -> None:
        self.told.append(attempt)


def everything(training: Training) -> Any:
    return copy.deepcopy(
        (training.model.state_dict(), training.optimizer.state_dict(), training.scheduler.state_dict(), training.seen)
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_a_second_attempt_is_bit_identical_to_the_first(tmp_path: Path) -> None:
    training = Training()
    attempts: list[tuple[list[float], Any]] = []
    restarts = gradscope.Restarts(
        training.model, training.optimizer, *training.state, path=tmp_path / "r", policy=Twice(), horizon=400
    )
    with pytest.warns(LearningFailureWarning):
        for attempt in restarts:
            losses: list[float] = []
            attempts.append((losses, None))
            with attempt as run:
                for _ in range(50):
                    training.epoch(run, losses)
            attempts[-1] = losses, everything(training)
    (first, end), (second, again) = attempts
    assert len(first) < 200, "the first attempt was to be stopped"
    assert first == second
    assert equal(end, again)
    assert training.handle.step in (len(first) - 1, len(first))
    one, two = (gradscope.open_run(tmp_path / "r" / f"attempt-{n}.h5").load() for n in (1, 2))
    for name in one.data_vars:
        if name != "time":
            np.testing.assert_array_equal(one[name], two[name], err_msg=str(name))


def test_a_restart_equals_a_fresh_run_with_a_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    restarts = gradscope.Restarts(training.model, training.optimizer, *training.state, path=tmp_path / "r", horizon=120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningFailureWarning)  # whether it learns is not the question here
        for attempt in restarts:
            losses: list[float] = []
            with attempt as run:
                for _ in range(15):
                    training.epoch(run, losses)
    assert restarts.result is not None
    assert [a.schedule for a in restarts.result.attempts] == [None, "delayed:auto"]
    monkeypatch.setenv("GRADSCOPE_SCHEDULE", "delayed:auto")
    monkeypatch.setenv("GRADSCOPE_ON_FAILURE", "ignore")
    fresh, fresh_losses = Training(), []
    with gradscope.record(fresh.model, fresh.optimizer, tmp_path / "fresh.h5", horizon=120) as run:
        for _ in range(15):
            fresh.epoch(run, fresh_losses)
            if len(fresh_losses) >= len(losses):
                break
    assert fresh_losses[: len(losses)] == losses
    if len(fresh_losses) == len(losses):
        assert same(fresh.model, training.model)


def test_a_failed_run_learns_and_says_so(tmp_path: Path) -> None:
    training = Training(strength=0.05)
    restarts = gradscope.Restarts(training.model, training.optimizer, *training.state, path=tmp_path / "r", horizon=240)
    for attempt in restarts:
        losses: list[float] = []
        with attempt as run:
            for _ in range(30):
                training.epoch(run, losses)
    found = restarts.result
    assert found is not None
    assert found.learned, found
    first, second = found.attempts
    assert first.diagnosis.verdict == "collapsed"
    assert second.switched_on is not None
    assert found.steps == first.steps + 240
    assert losses[-1] < 1.8
    told = json.loads((tmp_path / "r" / "run.json").read_text())
    assert told["learned"]
    assert [a["verdict"] for a in told["attempts"]] == ["collapsed", "healthy"]
    with pytest.raises(
        InputError, match=r"already holds a run, which is over \(learned: the run learns; its penalty came on"
    ):
        list(gradscope.Restarts(training.model, training.optimizer, path=tmp_path / "r"))


def test_an_error_is_passed_on_and_the_same_call_tries_again(tmp_path: Path) -> None:
    for number in (1, 2):
        training = Training(strength=0.0)
        restarts = gradscope.Restarts(training.model, training.optimizer, path=tmp_path / "r", horizon=8)
        with pytest.raises(RuntimeError, match="disk"):
            for attempt in restarts:
                with attempt as run:
                    training.epoch(run, [])
                    raise RuntimeError("the disk is full")
        told = json.loads((tmp_path / "r" / "run.json").read_text())
        assert (told["status"], told["reason"]) == ("crashed", "RuntimeError: the disk is full")
        assert len(list((tmp_path / "r").glob("attempt-1*.h5"))) == number
    restarts = gradscope.Restarts(training.model, training.optimizer, path=tmp_path / "r", restart="none")
    with pytest.raises(InputError, match="already holds a run with policy"):
        list(restarts)


def test_a_run_that_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """The penalty comes on after two epochs, too early; what is restored is the state from before that."""
    training = Training()
    training.handle.schedule = gradscope.Delayed(0.3, steps=48)
    began, states = [], {}
    restarts = gradscope.Restarts(
        training.model, training.optimizer, *training.state, path=tmp_path / "r", horizon=160, start_from="checkpoint"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningFailureWarning)
        for attempt in restarts:
            began.append(None)
            with attempt as run:
                for epoch in attempt.epochs(20):
                    state = (everything(training), torch.get_rng_state(), random.getstate())
                    if began[-1] is None:
                        began[-1] = epoch, state
                    if len(began) == 1:
                        states[epoch] = state
                    run.epoch(epoch)
                    training.epoch(run, [])
    assert restarts.result is not None
    _, second = restarts.result.attempts
    assert 0 < second.first_step <= 48
    epoch, state = began[1]
    assert epoch * 8 == second.first_step
    assert equal(state, states[epoch]), "bit for bit as that epoch began in the first attempt"
    with gradscope.open_run(second.path) as dataset:
        assert dataset["step"].values.tolist() == list(range(second.steps)), "one record of the whole run"
        acting = dataset["strength"].values[:, 0]
    assert not acting[: second.first_step + 16].any()


def test_inside_gradscope_run_it_leaves_the_restarts_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSCOPE_ON_FAILURE", "stop")
    monkeypatch.setenv("GRADSCOPE_OUT", str(tmp_path / "out.h5"))
    training = Training()
    with pytest.raises(SystemExit) as ended:
        for attempt in gradscope.Restarts(training.model, training.optimizer, path=tmp_path / "r", horizon=400):
            with attempt as run:
                for _ in range(50):
                    training.epoch(run, [])
    assert ended.value.code == 76
    assert (tmp_path / "out.h5").exists()
    assert not (tmp_path / "r").exists()
    monkeypatch.undo()
    from torch.optim import optimizer

    optimizer._global_optimizer_pre_hooks.clear()  # what ends a process that swallows SystemExit


def test_mistakes(tmp_path: Path) -> None:
    training = Training(strength=0.0)
    model, optimizer = training.model, training.optimizer
    with pytest.raises(InputError, match="the state of a float cannot be taken; expected something with state_dict"):
        gradscope.Restarts(model, optimizer, 0.5, path=tmp_path / "r")
    with pytest.raises(InputError, match="on_failure is set by Restarts itself"):
        gradscope.Restarts(model, optimizer, path=tmp_path / "r", on_failure="warn")
    with pytest.raises(InputError, match="restart is 'soon'"):
        gradscope.Restarts(model, optimizer, path=tmp_path / "r", restart="soon")
    with pytest.raises(InputError, match="has to train inside: with attempt as run"):
        for _ in gradscope.Restarts(model, optimizer, path=tmp_path / "r"):
            pass


# -- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_restores_whatever_has_a_state(tmp_path: Path) -> None:
    class Counter:
        count = 3

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_buffer("own", torch.ones(2), persistent=False)
    optimizer = torch.optim.Adam(model[0].parameters(), lr=0.1)
    counter, numbers, log = Counter(), np.random.default_rng(1), [1, 2]
    dice = random.Random(1)
    checkpoint = Checkpoint(model, optimizer, counter, numbers, dice, log)

    def work() -> list[Any]:
        out = model(torch.randn(8, 3)).sum()
        out.backward()
        optimizer.step()
        return [out.item(), numbers.random(), dice.random(), random.random(), float(torch.rand(()))]

    work()
    checkpoint(tmp_path / "c.pt")
    gradient = model[2].weight.grad.clone()
    before = copy.deepcopy(model.state_dict())
    expected = work()
    model.own[0] = 7
    counter.count = 9
    log.append(5)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    model[1].eval()
    model[0].weight.requires_grad_(False)
    for _ in range(2):  # what was read is not used up
        assert checkpoint.restore(tmp_path / "c.pt")
        assert equal(dict(model.state_dict()), dict(before))
        assert torch.equal(model[2].weight.grad, gradient)
        assert (counter.count, log, model.own.tolist()) == (3, [1, 2], [1, 1])
        assert model[1].training
        assert model[0].weight.requires_grad
        assert len(optimizer.param_groups) == 1
        assert work() == expected
    with pytest.raises(InputError, match="holds 6 objects; this one is of 1"):
        Checkpoint(model).restore(tmp_path / "c.pt")
    with pytest.raises(InputError, match="there is no checkpoint"):
        checkpoint.restore(tmp_path / "none.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        checkpoint.restore(tmp_path / "torn.pt")
    with pytest.raises(InputError, match="a checkpoint of nothing"):
        Checkpoint()
    assert not checkpoint.restore()


def test_few_checkpoints_are_kept_and_the_last_healthy_is_found(tmp_path: Path) -> None:
    kept = KeptCheckpoints(tmp_path / "c", lambda path: path.touch())
    for step in range(0, 5000, 10):
        kept.offer(step)
    steps = sorted(kept_in(tmp_path / "c"))
    assert len(steps) <= 5
    assert steps[-1] > 4000
    ages = 5000 - np.array(steps)
    assert (ages[:-1] > 1.1 * ages[1:]).all(), "further apart the older they are"
    assert last_healthy(tmp_path / "c", steps[1] + 3)[0] == steps[1]
    assert last_healthy(tmp_path / "c", 0) is None
    assert last_healthy(tmp_path / "c", None) is None
    assert last_healthy(tmp_path / "nowhere", 100) is None
