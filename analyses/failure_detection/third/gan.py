"""Pairs of generator and discriminator on real digits: one that learns, and two that fail."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from analyses.failure_detection.third.data import BATCH, DIGITS
from gradscope.diagnosis.cause import PENALTY, UNKNOWN

#: Of the spread of the data, and times the usual distance of a digit from its nearest other one (pixels that are drawn
#: each by itself: 2.1).
VARIED, NEAR = 0.5, 2.0
#: Than half of the digits told right.
BETTER = 0.6


@dataclass(frozen=True)
class Trained:
    """What became of a pair.

    ``varied``: the spread of what is drawn over that of the data. ``near``: how far it is from the nearest digit over
    how far a digit is from the nearest other one. ``told``: the share that the discriminator tells right, of new
    digits and of drawn ones alike.
    """

    varied: float
    near: float
    told: float

    @property
    def draws(self) -> bool:
        """Whether the generator has learned."""
        return self.varied >= VARIED and self.near <= NEAR

    @property
    def tells(self) -> bool:
        """Whether the discriminator has: beside a generator that draws digits half is all that can be told."""
        return self.draws or self.told > BETTER


@dataclass(frozen=True)
class Pair:
    """One training, of which two records are made: ``rates`` of generator and discriminator under Adam.

    ``right``: causes that are right for the generator, "" where it learns. ``alike``: the generator sees noise of one
    value only, so that it draws one image. ``decay``: of both, and innocent.
    """

    name: str
    right: str = ""
    rates: tuple[float, float] = (1e-3, 1e-3)
    alike: bool = False
    decay: float = 1e-4
    steps: int = 1500

    def train(self, folder: Path, seed: int) -> Trained:
        """Train and record both.

        Args:
            folder: of generator.h5 and discriminator.h5.
            seed: of weights, noise and order.

        Returns:
            What became of it.
        """
        torch.manual_seed(1000 + seed)
        draws = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
        tells = nn.Sequential(
            nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
        )
        nets = {"generator": draws, "discriminator": tells}
        made = [
            torch.optim.Adam(net.parameters(), lr=rate, betas=(0.5, 0.999), weight_decay=self.decay)
            for net, rate in zip(nets.values(), self.rates, strict=True)
        ]
        x = DIGITS().x
        with ExitStack() as stack:
            runs = [
                stack.enter_context(
                    gradscope.record(
                        net, optimizer, folder / f"{name}.h5", horizon=self.steps, on_failure="ignore", mode="overwrite"
                    )
                )
                for (name, net), optimizer in zip(nets.items(), made, strict=True)
            ]
            for _ in range(self.steps):
                real = x[torch.randint(0, len(x), (BATCH,))]
                fake = draws(self.noise())
                told = against(tells(real), 1) + against(tells(fake.detach()), 0)
                made[1].zero_grad()
                told.backward()
                made[1].step()
                runs[1].log(loss=told)
                fooled = against(tells(fake), 1)
                made[0].zero_grad()
                fooled.backward()
                made[0].step()
                runs[0].log(loss=fooled)
        with torch.no_grad():
            drawn, real = draws(self.noise(1024)), DIGITS().x_validation
            told = ((tells(real) > 0).float().mean() + (tells(drawn) < 0).float().mean()) / 2
            return Trained(varied(drawn, x), near(drawn[:256], x), float(told))

    def noise(self, of: int = BATCH) -> Tensor:
        """What an image is drawn from."""
        return torch.ones(of, 16) if self.alike else torch.randn(of, 16)


def against(output: Tensor, target: int) -> Tensor:
    """The loss against ones or zeros."""
    return F.binary_cross_entropy_with_logits(output, torch.full_like(output, target))


def varied(drawn: Tensor, x: Tensor) -> float:
    """Spread over that of the data."""
    return float((drawn.var(0).sum() / x.var(0).sum()).sqrt())


def near(drawn: Tensor, x: Tensor) -> float:
    """Median distance from the nearest image over that of images from each other."""
    others = torch.cdist(x, x).fill_diagonal_(torch.inf)
    return float(torch.cdist(drawn, x).min(1).values.median() / others.min(1).values.median())


PAIRS = [
    Pair("GAN", rates=(1e-3, 3e-3)),
    Pair("GAN, one image", "inputs that do not vary", alike=True),
    Pair("GAN, discriminator wins", "learning rate too low|learning rate too high", rates=(1e-6, 1e-2)),
    Pair("GAN, discriminator too slow", UNKNOWN, rates=(2e-3, 1e-4)),
    Pair(
        "GAN, decay at a high rate", f"{PENALTY}|learning rate too high", rates=(2e-2, 1e-3)
    ),  # either undone, it learns
]
