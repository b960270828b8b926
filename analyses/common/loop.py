"""The training loop of the studies: one epoch after the other, so that the caller may act between two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import gradscope
from analyses.common.images import ImageSet


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean losses (nats, without penalty), and accuracies as shares.

    ``loss`` and ``train_accuracy`` are taken over the epoch's own batches, while the weights move and dropout is on.
    """

    number: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    test_loss: float


def epochs(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: ImageSet,
    count: int,
    batch: int,
    *,
    run: gradscope.Recording | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    extra: Callable[[Tensor, Tensor], Tensor] | None = None,
    log_error: bool = False,
) -> Iterator[Epoch]:
    """Train ``count`` epochs on cross-entropy in random order, and yield each when it is done.

    ``run``: the recording, which gets the loss of every step and the epoch's metrics. ``augment``: of a batch
    of images. ``extra(x, y)``: added to the loss (a penalty on activations, an adversarial part). ``log_error``: the
    recording gets the error of every batch too, for controllers that look at it.
    The order of the batches comes from torch's CPU generator.
    """
    for number in range(count):
        if run is not None:
            run.epoch(number)
        model.train()
        losses = torch.zeros((), device=data.x.device)
        right = torch.zeros((), device=data.x.device)
        for chosen in torch.randperm(len(data.x)).to(data.x.device).split(batch):
            x, y = data.x[chosen], data.y[chosen]
            output = model(x if augment is None else augment(x))
            loss = cross_entropy(output, y)
            optimizer.zero_grad()
            (loss if extra is None else loss + extra(x, y)).backward()
            optimizer.step()
            with torch.no_grad():
                losses += loss * len(y)
                hits = (output.argmax(1) == y).sum()
                right += hits
            if run is not None:
                run.log(loss=loss, **({"error": 1 - hits / len(y)} if log_error else {}))
        outputs = answers(model, data.x_test)
        done = Epoch(
            number,
            (losses / len(data.x)).item(),
            (right / len(data.x)).item(),
            float((outputs.argmax(1) == data.y_test).float().mean()),
            float(cross_entropy(outputs, data.y_test)),
        )
        if run is not None:
            run.epoch(number, accuracy=done.test_accuracy, train_accuracy=done.train_accuracy, test_loss=done.test_loss)
        yield done


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """The share of images that are classified correctly, in evaluation mode."""
    return float((predictions(model, x, batch) == y).float().mean())


def predictions(model: nn.Module, x: Tensor, batch: int = 1000) -> Tensor:
    """The class of each image [N], in evaluation mode."""
    return answers(model, x, batch).argmax(1)


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, batch: int = 1000) -> Tensor:
    """The outputs [N, classes] in evaluation mode; the model is left in the mode it was in."""
    before = model.training
    model.eval()
    found = torch.cat([model(part) for part in x.split(batch)])
    model.train(before)
    return found


def crops(padding: int, flips: bool) -> Callable[[Tensor], Tensor]:
    """Random crops of zero-padded images, one offset an image, and horizontal flips where they make sense."""

    def augment(x: Tensor) -> Tensor:
        count, _, rows, columns = x.shape
        padded = pad(x, (padding,) * 4)
        down, right = (torch.randint(0, 2 * padding + 1, (count, 1), device=x.device) for _ in range(2))
        row = (down + torch.arange(rows, device=x.device))[:, None, :, None]
        column = (right + torch.arange(columns, device=x.device))[:, None, None, :]
        if flips:
            mirrored = torch.rand(count, 1, 1, 1, device=x.device) < 0.5
            column = torch.where(mirrored, column.flip(-1), column)
        one = torch.arange(count, device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        return padded[one, channel, row, column]

    return augment
