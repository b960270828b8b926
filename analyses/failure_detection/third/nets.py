"""Networks of the third edition, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analyses.failure_detection.third.data import DIGITS


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, he: bool = True) -> nn.Sequential:
    """Linear layers of these sizes with an activation between them."""
    model = nn.Sequential(*[part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), act())][:-1])
    for part in model:
        if he and isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    return model


def changed(model: nn.Module, change: Callable[[nn.Linear], object]) -> nn.Module:
    """The model, something done to each linear layer but the last."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for layer in layers[:-1]:
            change(layer)
    return model


def conv() -> nn.Sequential:
    """Batch-normalised."""
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for a, b in ((1, 8), (8, 16), (16, 16)):
        parts += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


class Transformer(nn.Module):
    """Rows of an image as tokens, or characters; ``first``: the norm stands before the block."""

    def __init__(self, first: bool = True, words: int = 0, width: int = 32) -> None:
        super().__init__()
        self.enter: nn.Module = nn.Embedding(words, width) if words else nn.Linear(8, width)
        self.place = nn.Parameter(0.02 * torch.randn(32 if words else 8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=first)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Linear(width, words or 10)
        self.words = words

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x if self.words else x.view(-1, 8, 8)) + self.place
        if not self.words:
            plain: Tensor = self.leave(self.blocks(h).mean(1))
            return plain
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        out: Tensor = self.leave(self.blocks(h, mask=mask, is_causal=True))
        return out.flatten(0, 1)


class Vae(nn.Module):
    """Holds its KL term of the last forward."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mu, self.log_variance = mlp(64, 64, 32), nn.Linear(32, 8), nn.Linear(32, 8)
        self.decode = mlp(8, 64, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.encode(x))
        m, v = self.mu(h), self.log_variance(h)
        self.term = -0.5 * (1 + v - m.square() - v.exp()).sum(1).mean()
        out: Tensor = self.decode(m + torch.randn_like(m) * (v / 2).exp())
        return out


class Sparse(nn.Module):
    """An autoencoder that holds the L1 norm of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.act, self.decode = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64)

    def forward(self, x: Tensor) -> Tensor:
        code = self.act(self.encode(x))
        self.term = code.abs().sum() / len(x)
        out: Tensor = self.decode(code)
        return out


class LowRank(nn.Module):
    """LoRA on a frozen layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(4, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out


def lora() -> nn.Module:
    """A base that was trained on half of the classes."""
    base, data = mlp(64, 64, 64, 10), DIGITS()
    half, optimizer = data.y < 5, torch.optim.Adam(base.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(base(data.x[half]), data.y[half]).backward()
        optimizer.step()
    return nn.Sequential(*[LowRank(part) if isinstance(part, nn.Linear) else part for part in base])


class Through(nn.Module):
    """A body and what is done to its output."""

    def __init__(self, body: nn.Module, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.then = body, nn.Linear(64, 10), then

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.then(torch.relu(self.body(x))))
        return out


def hide(model: nn.Sequential) -> nn.Module:
    """Its hidden layers in a plain list, small, so that nothing is learned by what is left."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = list(model[:-1]), model[-1]

        def forward(self, x: Tensor) -> Tensor:
            for part in self.hidden:
                x = part(x)
            out: Tensor = self.head(x)
            return out

    changed(model, lambda layer: layer.weight.mul_(0.05))
    return Listed()


def frozen(model: nn.Module) -> nn.Module:
    """All but the first bias."""
    for number, p in enumerate(model.parameters()):
        p.requires_grad_(number == 1)
    return model


def spoiled(bias: float = 0.0, weight: float | None = None) -> Callable[[nn.Linear], object]:
    """Sets biases, scales weights."""

    def change(layer: nn.Linear) -> None:
        layer.bias.fill_(bias)
        if weight is not None:
            layer.weight.mul_(weight)

    return change


def standing(model: nn.Sequential) -> nn.Module:
    """What `hide` makes, its layers registered."""
    return changed(model, lambda layer: layer.weight.mul_(0.05))


def leaky(model: nn.Module) -> None:
    """Put a leaky activation in the place of each ReLU."""
    for name, part in list(model.named_modules()):
        if isinstance(part, nn.ReLU):
            model.set_submodule(name, nn.LeakyReLU())


def drawn_anew(model: nn.Module) -> None:
    """Initialise linear layers by He where ReLU follows, by Xavier elsewhere."""
    relu = any(isinstance(part, nn.ReLU | nn.LeakyReLU) for part in model.modules())
    for part in model.modules():
        if isinstance(part, nn.Linear):
            if relu:
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)


def without_biases(model: nn.Module) -> None:
    """Begin all biases of linear layers at 0."""
    for part in model.modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def normalised(model: nn.Module) -> None:
    """Put a layer norm before each activation that follows a linear layer."""
    if isinstance(model, nn.Sequential):
        for number, (before, after) in enumerate(pairwise(list(model)), 1):
            if isinstance(before, nn.Linear) and not isinstance(after, nn.Linear):
                model[number] = nn.Sequential(nn.LayerNorm(before.out_features), after)
