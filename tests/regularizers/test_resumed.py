"""Checkpoint and resume in the middle of every schedule and controller; controllers on an optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gradscope import (
    L2,
    AdvanceL2,
    Constant,
    Delayed,
    InputError,
    parse_schedule,
    regularize,
)
from gradscope.regularizers.hooks import Attached
from gradscope.regularizers.schedules import EXAMPLES
from tests.helpers.loops import batches, mlp, train
from tests.helpers.twins import same

# -- resuming -------------------------------------------------------------------------------------

RESUMED = [text for text in EXAMPLES if text not in ("delayed:5", "ramp:5")] + [
    *("delayed:2", "ramp:3", "strong:4", "strong:12steps", "cyclic:3", "cyclic:4stepsx2", "table:0=1,1=2,2=0.5"),
    *("ivanov:25", "ivanov:5:l2", "autol2:every=1,cooldown=10", "advancel2:every=2,ceiling=1", "cpr:4steps"),
]


def piece(
    model: nn.Module, optimizer: Any, scheduler: Any, handle: Attached, steps: range, told: bool = True
) -> list[float]:
    """Steps of a run of 16, with a learning rate that falls and a loss that controllers hear."""
    data, strengths = list(batches(16)), []
    for step in steps:
        x, y = data[step]
        if step == 6:
            handle.active_phase()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        strengths.append(handle.now())
        optimizer.step()
        scheduler.step()
        handle.observe(loss=loss, error=0.5)
    return strengths


@pytest.mark.parametrize("text", dict.fromkeys(RESUMED))
def test_resuming_in_the_middle_is_bit_identical(text: str) -> None:
    def made(model: nn.Module) -> tuple[Any, Any, Attached]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
        handle = regularize(optimizer, L2(), parse_schedule(text, 0.02), steps_per_epoch=4)
        handle.watched = True  # delayed:auto, told of its active phase by hand here
        return optimizer, scheduler, handle

    torch.manual_seed(3)
    whole = mlp()
    stopped = copy.deepcopy(whole)
    strengths = piece(whole, *made(whole), range(16))
    parts = made(stopped)
    piece(stopped, *parts, range(9))
    saved = copy.deepcopy([stopped.state_dict(), *(part.state_dict() for part in parts)])
    resumed = mlp()
    again = made(resumed)
    resumed.load_state_dict(saved[0])
    for part, state in zip(again, saved[1:], strict=True):
        part.load_state_dict(state)
    assert piece(resumed, *again, range(9, 16)) == strengths[9:]
    assert same(whole, resumed)
    assert again[2].step == 16


def test_a_state_of_another_schedule_is_refused() -> None:
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), Constant(0.1))
    state = handle.state_dict()
    handle.detach()
    with pytest.raises(InputError, match=r"the state is of schedule 'constant'; this one is 'delayed:3steps'"):
        regularize(optimizer, L2(), Delayed(0.1, steps=3)).load_state_dict(state)


# -- controllers and activities on an optimizer ---------------------------------------------------


def test_a_controller_hears_the_loss_and_sets_the_strength() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = regularize(optimizer, L2(), AdvanceL2(0.1, every=2, cooldown=0.0))
    strengths = []
    for step, loss in enumerate([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0]):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        handle.settle()
        strengths.append(handle.now())
        optimizer.step()
        handle.observe(loss=torch.tensor(loss))
        assert handle.step == step + 1
    # Measured at steps 0, 2, 4, 6, 8, 10: 5 sets the minimum, 4 and 3 lie below it twice running, 9 and 9 above.
    assert strengths == pytest.approx([0.1] * 5 + [1.0] * 4 + [0.1] * 2)


def test_a_controller_that_is_told_nothing_says_so() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularize(optimizer, L2(), AdvanceL2(0.01))
    with pytest.raises(InputError, match=r"follows the training loss and has been told none in 11 steps"):
        train(model, optimizer, 20)
