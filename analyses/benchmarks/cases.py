"""The nets whose training step is timed, and the ways to watch it: ours and the peers'."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import gradscope


@dataclass(frozen=True)
class Case:
    """One training step: a net, its batch, its optimizer, and whether it runs under bfloat16 autocast."""

    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    autocast: bool = False
    steps: int = 100  # in a turn


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)


def digits_mlp() -> nn.Module:
    hidden = [layer for _ in range(7) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor]:
    from gradscope.demo.data import digits as load

    data = load()
    return data.x[:64], data.y[:64]


def images(size: int, count: int, classes: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(count, 3, size, size), torch.randint(0, classes, (count,)))


class GPT2(nn.Module):
    """The shape of GPT-2's smallest: 12 blocks of width 768, 124 million parameters, tied output layer."""

    def __init__(self, length: int = 512) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50257, 768), nn.Embedding(length, 768)
        block = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 12, nn.LayerNorm(768), enable_nested_tensor=False)
        self.head = nn.Linear(768, 50257, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        states = self.tokens(x) + self.places(torch.arange(length, device=x.device))
        logits: Tensor = self.head(self.blocks(states, mask=mask, is_causal=True))
        return logits.transpose(1, 2)


def text() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 50257, (8, 512)), torch.randint(0, 50257, (8, 512))


def vgg16() -> nn.Module:
    model: nn.Module = torchvision.models.vgg16(num_classes=100)
    return model


CPU = {
    "digits MLP, 8 layers of 64, batch 64": Case(digits_mlp, digits, sgd, steps=100),
    "ResNet-18, 32 px, batch 32": Case(
        lambda: torchvision.models.resnet18(num_classes=10), images(32, 32, 10), sgd, steps=2
    ),
}
CUDA = {
    f"{name}{', bfloat16 autocast' if autocast else ', TF32'}": Case(model, batch, optimizer, autocast, 10)
    for name, model, batch, optimizer in (
        ("VGG-16, 32 px, batch 128", vgg16, images(32, 128, 100), sgd),
        ("ResNet-50, 224 px, batch 128", torchvision.models.resnet50, images(224, 128, 1000), sgd),
        ("GPT-2 shape, 124M, 8 x 512 tokens", GPT2, text, adamw),
    )
    for autocast in (False, True)
}

#: A watcher is set on a model and its optimizer; it gets each step's loss after ``optimizer.step()``.
Watcher = Callable[[nn.Module, torch.optim.Optimizer, Path], contextlib.AbstractContextManager[Callable[[Tensor], Any]]]


def ours(preset: str, **options: Any) -> Watcher:
    @contextlib.contextmanager
    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Callable[[Tensor], Any]]:
        path = folder / f"{preset}-{len(list(folder.iterdir()))}.h5"
        with gradscope.record(model, optimizer, path, preset=preset, on_failure="ignore", **options) as run:
            yield lambda loss: run.log(loss=loss)

    return watch


@contextlib.contextmanager
def nobody(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Callable[[Tensor], Any]]:
    yield lambda loss: None


@contextlib.contextmanager
def item_hooks(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Callable[[Tensor], Any]]:
    """What one writes first: a hook a parameter that reads the mean of its gradient."""
    seen: dict[str, float] = {}

    def hook(name: str) -> Callable[[Tensor], None]:
        return lambda gradient: seen.__setitem__(name, gradient.abs().mean().item())

    handles = [p.register_hook(hook(name)) for name, p in model.named_parameters()]
    yield lambda loss: seen.__setitem__("loss", loss.item())
    for handle in handles:
        handle.remove()


@contextlib.contextmanager
def wandb_watch(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Callable[[Tensor], Any]]:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder)}
    import wandb

    run = wandb.init(project="overhead", dir=folder)
    run.watch(model, log="all", log_freq=1)
    yield lambda loss: run.log({"loss": loss})
    run.unwatch(model)
    run.finish()


@contextlib.contextmanager
def histograms(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Iterator[Callable[[Tensor], Any]]:
    """TensorBoard: every weight and every gradient at every step."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    step = [0]

    def tell(loss: Tensor) -> None:
        writer.add_scalar("loss", loss, step[0])
        for name, p in model.named_parameters():
            writer.add_histogram(name, p, step[0])
            writer.add_histogram(f"{name}.grad", p.grad, step[0])
        step[0] += 1

    yield tell
    writer.close()


@contextlib.contextmanager
def lightning_norms(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> Iterator[Callable[[Tensor], Any]]:
    """Lightning's `grad_norm`, a dictionary of norms that its logger would read."""
    from lightning.pytorch.utilities import grad_norm

    def tell(loss: Tensor) -> None:
        {name: float(norm) for name, norm in grad_norm(model, 2).items()}

    yield tell


COCKPIT = "Cockpit economy"


def cockpit_step(case: Case) -> Callable[[], None]:
    """Cockpit works through the loop itself: extended modules, losses of single samples, a context around backward.

    Version 1.0.2 runs on today's torch, with setuptools below 80 (it imports pkg_resources); its individual
    gradients do not know batch normalisation, so it is there for the MLP only.
    """
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    model = extend(case.model())
    optimizer = case.optimizer(model)
    x, y = case.batch()
    mean, single = extend(nn.CrossEntropyLoss()), extend(nn.CrossEntropyLoss(reduction="none"))
    cockpit = Cockpit(model.parameters(), quantities=configuration("economy"))
    count = iter(range(1 << 60))

    def step() -> None:
        number = next(count)
        optimizer.zero_grad()
        out = model(x)
        loss, losses = mean(out, y), single(out, y)
        told = {"batch_size": len(x), "individual_losses": losses, "loss": loss, "optimizer": optimizer}
        with cockpit(number, info=told):
            loss.backward(create_graph=cockpit.create_graph(number))
        optimizer.step()

    return step


WATCHERS: dict[str, Watcher] = {
    "bare": nobody,
    "bare again": nobody,
    "cheap": ours("cheap"),
    "standard": ours("standard"),
    "standard, all every step": ours("standard", every={"activations": 1}),
    "full": ours("full"),
    "hook with .item()": item_hooks,
    "Lightning grad_norm": lightning_norms,
    "TensorBoard add_histogram": histograms,
    "wandb.watch(log='all')": wandb_watch,
    COCKPIT: nobody,  # see `cockpit_step`
}
NEEDS = {
    "Lightning grad_norm": ("lightning",),
    "TensorBoard add_histogram": ("tensorboard",),
    "wandb.watch(log='all')": ("wandb",),
    COCKPIT: ("cockpit", "pkg_resources"),
}


def present(name: str) -> bool:
    """Whether what a watcher needs is installed."""
    return all(importlib.util.find_spec(package) is not None for package in NEEDS.get(name, ()))
