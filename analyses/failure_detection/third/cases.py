"""Trainings of the third edition: what people train, and failures with the right cause as label."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import gradscope
from analyses.failure_detection.third.data import (
    BATCH,
    DIGITS,
    Batch,
    best_constant,
    by_heart,
    entropy,
    images,
    itself,
    noise,
    same,
    sixty,
    sums,
    text,
)  # fmt: skip
from analyses.failure_detection.third.nets import (
    Sparse,
    Through,
    Transformer,
    Vae,
    changed,
    conv,
    frozen,
    hide,
    lora,
    mlp,
    spoiled,
    standing,
)  # fmt: skip
from gradscope.diagnosis.cause import PENALTY, UNDECLARED, UNKNOWN

STEPS = 360


def everything(model: Any) -> Any:
    """Return all parameters."""
    return list(model.parameters())


@dataclass(frozen=True)
class Case:
    """One training.

    ``right``: causes that are right, none for a run that is no failure. ``term``: strength of a term of the script's
    own in the loss. ``owned``: which parameters the optimizer gets. ``late``: layers are replaced after it was made.
    ``mended``: fields of the case without its slip. ``then``: what is done to the model at first. ``delay``: a schedule
    for the penalty, in gradscope's words. ``validated``: the loss on other data is told to the epochs.
    """

    name: str
    right: tuple[str, ...] = ()
    model: Callable[[], nn.Module] = lambda: mlp(64, 64, 64, 10)
    data: Callable[[int], Batch] = images
    optimizer: str = "sgd"
    lr: float = 0.05
    decay: float = 0.0
    steps: int = STEPS
    scale: float = 1.0
    standardised: bool = False
    clip: float = 0.0
    clear: bool = True
    term: float = 0.0
    crush: float = 0.0
    schedule: Callable[[int], float] = lambda step: 1.0
    owned: Callable[[Any], Any] = everything
    late: bool = False
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    mended: tuple[tuple[str, Any], ...] = ()
    then: tuple[Callable[[nn.Module], object], ...] = ()
    delay: str = ""
    validated: bool = False

    @property
    def constant(self) -> float:
        """Loss of the best constant prediction."""
        if self.loss is one_sigmoid:
            return entropy((DIGITS().y == 8).long())
        return best_constant(self.data) * (BATCH if self.loss is summed else 1)

    def fails(self, losses: NDArray[np.float64]) -> bool:
        """Tell by the losses [steps] alone: the last twentieth is not 5 % better than the best constant."""
        end = losses[-max(1, len(losses) // 20) :].mean()
        return not end < 0.95 * self.constant

    def prepared(self, seed: int) -> tuple[Any, torch.optim.Optimizer]:
        """Make model and optimizer."""
        torch.manual_seed(1000 + seed)
        model: Any = self.model()
        with torch.no_grad():
            for change in self.then:
                change(model)
        owned = [p for p in self.owned(model) if p.requires_grad or model_is_frozen(model)]
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        make: Any = kinds.get(self.optimizer, torch.optim.SGD)
        more = {} if self.optimizer in kinds else {"momentum": 0.9}
        optimizer = make(owned, lr=self.lr, weight_decay=self.decay, **more)
        if self.late:
            model[0], model[2] = nn.Linear(64, 64), nn.Linear(64, 64)
        return model, optimizer

    def given(self, step: int) -> Batch:
        """Make a batch as the script hands it to the model."""
        x, y = self.data(step)
        if x.dtype == torch.long:
            return x, y
        if self.standardised:
            every = DIGITS().x
            return (x - every.mean()) / every.std(), y
        return self.scale * x, y

    def train(self, path: Path, seed: int) -> NDArray[np.float64]:
        """Train, recorded.

        Returns:
            The losses, [steps].
        """
        model, optimizer = self.prepared(seed)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        options: Any = {"horizon": self.steps, "on_failure": "ignore", "mode": "overwrite"}
        seen, asked = [], {"GRADSCOPE_SCHEDULE": self.delay} if self.delay else {}
        with mock.patch.dict(os.environ, asked), gradscope.record(model, optimizer, path, **options) as run:
            for step in range(self.steps):
                x, y = self.given(step)
                loss = self.loss(model(x), y)
                term: Any = self.term * model.term if self.term else 0.0
                if self.crush:
                    term = self.crush * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
                if self.clear:
                    optimizer.zero_grad()
                (loss + term).backward()
                if self.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                optimizer.step()
                rate.step()
                run.log(loss=loss)
                seen.append(float(loss.detach()))
                if step % 36 == 0:
                    run.epoch(step // 36, **(self.beside(model) if self.validated else {}))
        return np.array(seen)

    def beside(self, model: nn.Module) -> dict[str, float]:
        """Measure on other data."""
        data = DIGITS()
        with torch.no_grad():
            return {"val_loss": float(self.loss(model(data.x_validation), data.y_validation))}


def model_is_frozen(model: nn.Module) -> bool:
    """Tell a model of which the optimizer gets what is frozen, too: all but a bias."""
    return sum(p.requires_grad for p in model.parameters()) == 1


def one_sigmoid(output: Tensor, y: Tensor) -> Tensor:
    """Is it an eight?"""
    return F.binary_cross_entropy(output, (y == 8).float()[:, None])


def summed(output: Tensor, y: Tensor) -> Tensor:
    """A sum over the batch."""
    return F.cross_entropy(output, y, reduction="sum")


LM: dict[str, Any] = {"model": lambda: Transformer(words=96), "data": text, "optimizer": "adamw", "lr": 3e-3}
ATTENTION: dict[str, Any] = {"model": Transformer, "optimizer": "adamw", "lr": 2e-3}
CASES = [
    # what learns
    Case("transformer, decay .01", decay=0.01, **ATTENTION),
    Case("transformer, decay 1", decay=1.0, **ATTENTION),
    Case("transformer, post-LN", model=lambda: Transformer(False), optimizer="adamw", lr=1e-3, decay=0.1),
    Case("batch-normalised conv", model=conv, decay=5e-4),
    Case("batch-normalised conv, strong decay", model=conv, decay=2e-2),
    Case("VAE", model=Vae, data=itself, optimizer="adam", lr=2e-3, term=1e-4, loss=F.mse_loss),
    Case("LoRA", model=lora, optimizer="adamw", lr=3e-3, decay=0.01),
    Case("language model", decay=0.1, **LM),
    Case("grokking, before it does", model=lambda: mlp(46, 128, 23), data=sums, optimizer="adamw", lr=3e-3, decay=1.0),
    Case("sparse code", model=Sparse, data=itself, optimizer="adam", lr=3e-3, term=1e-6, loss=F.mse_loss),
    Case("clipped a little", clip=1.0, decay=1e-4),
    Case("warm-up", schedule=lambda step: min(1.0, (step / 180) ** 2), decay=1e-4),
    Case("cosine", schedule=lambda step: 0.5 * (1 + np.cos(np.pi * step / STEPS)), decay=1e-4),
    Case("dropout", model=lambda: nn.Sequential(nn.Dropout(0.3), *mlp(64, 64, 64, 10)), decay=1e-4),
    Case("summed loss", lr=1e-3, decay=1e-3, loss=summed),
    Case("sixty images by heart", data=sixty, validated=True),
    Case("noise by heart", data=by_heart, optimizer="adam", lr=1e-3, decay=1e-5, validated=True,
         model=lambda: mlp(64, 256, 256, 10)),
    Case("Adam, default initialisation", model=lambda: mlp(64, 64, 64, 10, he=False), optimizer="adam", lr=1e-3),
    # the penalty
    Case("transformer, decay 300", (PENALTY,), decay=300.0, **ATTENTION),
    Case("transformer, decay 60", (PENALTY,), decay=60.0, **ATTENTION),
    Case("MLP, decay .3", (PENALTY,), decay=0.3),
    Case("deep MLP, decay .1", (PENALTY,), model=lambda: mlp(64, *[48] * 8, 10), decay=0.1, lr=0.03),
    Case("MLP under Adam, coupled decay .3", (PENALTY,), optimizer="adam", lr=1e-3, decay=0.3),
    Case("MLP under AdamW, decay 200", (PENALTY,), optimizer="adamw", lr=1e-3, decay=200.0),
    Case("language model, decay 60", (PENALTY,), decay=60.0, **LM),
    Case("LoRA, decay 300", (PENALTY,), model=lora, optimizer="adamw", lr=3e-3, decay=300.0),
    # other causes, most under a penalty that is innocent
    Case("clipped to nothing", ("gradient clipping",), clip=1e-4, decay=1e-3),
    Case("clipped, and decayed", ("gradient clipping",), clip=1e-3, decay=2e-2),
    Case("twenty default layers", ("initialisation",), lambda: mlp(64, *[48] * 18, 10, he=False), decay=1e-3),
    Case("small tanh", ("initialisation",), decay=1e-3,
         model=lambda: changed(mlp(64, *[48] * 8, 10, act=nn.Tanh), spoiled(weight=0.03))),
    Case("zeros", ("initialisation",), lambda: changed(mlp(64, 64, 64, 10), spoiled(weight=0.0)), decay=1e-3),
    Case("biases at -8", ("dead units",), lambda: changed(mlp(64, 64, 64, 10), spoiled(bias=-8.0)), decay=5e-3),
    Case("scaled by 255 twice", ("input scale",), lambda: mlp(64, 64, 64, 64, 10, he=False), scale=1 / 255, decay=1e-3),
    Case("raw, times 2000", ("input scale",), scale=2000.0, decay=1e-4),
    Case("always the same input", ("inputs that do not vary",), data=same, decay=1e-3),
    Case("softmax twice", ("softmax twice",), lambda: nn.Sequential(*mlp(64, 64, 64, 10), nn.Softmax(1)), lr=1e-3,
         mended=(("model", lambda: mlp(64, 64, 64, 10)),)),
    Case("softmax in the forward", ("softmax twice",), lr=1e-3,
         loss=lambda output, y: F.cross_entropy(output.softmax(1), y),
         mended=(("loss", F.cross_entropy),)),
    Case("never cleared", ("gradients never cleared",), clear=False, lr=0.1, decay=1e-4),
    Case("rate 1e-7", ("learning rate too low",), lr=1e-7, decay=1e-3),
    Case("rate 1e-9 under Adam", ("learning rate too low",), optimizer="adam", lr=1e-9, decay=1e-3),
    Case("rate 5", ("learning rate too high",), lr=5.0, decay=5e-4),
    Case("rate 1 under Adam", ("learning rate too high",), lambda: mlp(64, 64, 64, 64, 10), optimizer="adam", lr=1.0,
         decay=1e-4),
    Case("schedule over in 12 steps", ("learning rate that went to 0",), lr=1e-3,
         schedule=lambda step: max(0.0, 1 - step / 12), decay=1e-3),
    Case("left out", ("untrained parameters",), lambda: changed(mlp(64, 64, 64, 10), spoiled(weight=0.02)),
         lr=1e-3, owned=lambda model: list(model.parameters())[1:2],
         mended=(("owned", everything),)),
    Case("stale", ("untrained parameters",), lr=1e-3, late=True,
         owned=lambda model: [*model[:3].parameters(), model[4].bias],
         mended=(("owned", everything), ("late", False))),
    Case("frozen", ("untrained parameters",), lambda: frozen(mlp(64, 64, 64, 10)), decay=1e-3,
         mended=(("model", lambda: mlp(64, 64, 64, 10)),)),
    Case("in a list", ("untrained parameters",), lambda: hide(mlp(64, 64, 64, 10)), lr=1e-3,
         mended=(("model", lambda: standing(mlp(64, 64, 64, 10))),)),
    Case("detached", ("untrained parameters",), lambda: Through(mlp(64, 64, 64), lambda h: 1e-3 * h.detach()), lr=1e-3,
         mended=(("model", lambda: Through(mlp(64, 64, 64), lambda h: 1e-3 * h)),)),
    Case("own L2 in the loss", (UNDECLARED,), crush=0.1),
    Case("code died", ("dead units", "a code that lost the input"), Sparse, itself, "adam", 3e-3, term=1.0,
         loss=F.mse_loss),
    Case("posterior collapsed", ("a code that lost the input",), Vae, itself, "adam", 2e-3, term=1.0, loss=F.mse_loss),
    Case("softmax over one", ("an output that cannot vary",), loss=one_sigmoid, decay=1e-2,
         model=lambda: nn.Sequential(*mlp(64, 32, 1), nn.Softmax(1)),
         mended=(("model", lambda: nn.Sequential(*mlp(64, 32, 1), nn.Sigmoid())),)),
    Case("noise for inputs", (UNKNOWN, "too short or too slow"), data=noise, lr=0.01, decay=1e-3),
]  # fmt: skip
