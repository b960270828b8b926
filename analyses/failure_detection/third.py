"""A small third edition: what people train, and failures with the right cause as label (see README.md)."""

from __future__ import annotations

import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.failure_detection.baselines import thermoclaw
from gradscope.demo.data import digits
from gradscope.diagnosis.cause import PENALTY, UNDECLARED, UNKNOWN
from gradscope.diagnosis.judge import Judge
from gradscope.diagnosis.post_hoc import feed
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.quantities import JUDGED
from gradscope.store.record import Record

STEPS, BATCH = 360, 64
Batch = tuple[Tensor, Tensor]


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


DIGITS, TEXT = cache(digits), Path(sysconfig.get_paths()["stdlib"], "argparse.py")


def images(step: int) -> Batch:
    """Digits with their classes."""
    data = DIGITS()
    at = torch.randint(0, len(data.x), (BATCH,))
    return data.x[at], data.y[at]


def itself(step: int) -> Batch:
    """Digits, to be put out again."""
    x, _ = images(step)
    return x, x


def same(step: int) -> Batch:
    """Always the same image, with the classes of others."""
    x, y = images(step)
    return DIGITS().x[:1].expand_as(x), y


def noise(step: int) -> Batch:
    """Inputs that tell nothing."""
    return torch.randn(BATCH, 64), images(step)[1]


def sums(step: int) -> Batch:
    """Addition modulo 23, two thirds of the table: what groks later is known by heart at first."""
    order = torch.randperm(529, generator=torch.Generator().manual_seed(0))[:350]
    at = order[torch.randint(0, 350, (256,))]
    a, b = at // 23, at % 23
    return torch.cat([F.one_hot(a, 23), F.one_hot(b, 23)], 1).float(), (a + b) % 23


@cache
def letters() -> Tensor:
    """Characters of Python's own library, rare ones as one."""
    return torch.tensor([min(max(ord(c) - 31, 0), 95) for c in TEXT.read_text(encoding="utf-8")[:60000]])


def text(step: int) -> Batch:
    """Thirty-two letters, and each one's successor."""
    ids = letters()
    at = torch.randint(0, len(ids) - 33, (16,))[:, None] + torch.arange(33)
    return ids[at][:, :-1], ids[at][:, 1:].flatten()


@dataclass(frozen=True)
class Case:
    """One training. ``right``: causes that are right, none for a run that is no failure. ``term``: strength of a term
    of the script's own in the loss. ``owned``: which parameters the optimizer gets.
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
    clip: float = 0.0
    clear: bool = True
    term: float = 0.0
    crush: float = 0.0
    schedule: Callable[[int], float] = lambda step: 1.0
    owned: Callable[[Any], Any] = lambda model: list(model.parameters())
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def train(self, path: Path, seed: int) -> None:
        """Train, recorded."""
        torch.manual_seed(1000 + seed)
        model: Any = self.model()
        owned = [p for p in self.owned(model) if p.requires_grad or "frozen" in self.name]
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        make: Any = kinds.get(self.optimizer, torch.optim.SGD)
        more = {} if self.optimizer in kinds else {"momentum": 0.9}
        optimizer = make(owned, lr=self.lr, weight_decay=self.decay, **more)
        if "stale" in self.name:
            model[0], model[2] = nn.Linear(64, 64), nn.Linear(64, 64)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        with gradscope.record(model, optimizer, path, horizon=self.steps, on_failure="ignore", mode="overwrite") as run:
            for step in range(self.steps):
                x, y = self.data(step)
                output = model(x if x.dtype == torch.long else self.scale * x)
                loss = self.loss(output, y)
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
                if step % 36 == 0:
                    run.epoch(step // 36)


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


def one_sigmoid(output: Tensor, y: Tensor) -> Tensor:
    """Is it an eight?"""
    return F.binary_cross_entropy(output, (y == 8).float()[:, None])


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
    Case("summed loss", lr=1e-3, decay=1e-3, loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
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
    Case("softmax twice", ("softmax twice",), lambda: nn.Sequential(*mlp(64, 64, 64, 10), nn.Softmax(1)), lr=1e-3),
    Case("softmax in the forward", ("softmax twice",), lr=1e-3,
         loss=lambda output, y: F.cross_entropy(output.softmax(1), y)),
    Case("never cleared", ("gradients never cleared",), clear=False, lr=0.1, decay=1e-4),
    Case("rate 1e-7", ("learning rate too low",), lr=1e-7, decay=1e-3),
    Case("rate 1e-9 under Adam", ("learning rate too low",), optimizer="adam", lr=1e-9, decay=1e-3),
    Case("rate 5", ("learning rate too high",), lr=5.0, decay=5e-4),
    Case("rate 1 under Adam", ("learning rate too high",), lambda: mlp(64, 64, 64, 64, 10), optimizer="adam", lr=1.0,
         decay=1e-4),
    Case("schedule over in 12 steps", ("learning rate that went to 0",), lr=1e-3,
         schedule=lambda step: max(0.0, 1 - step / 12), decay=1e-3),
    Case("left out", ("untrained parameters",), lambda: changed(mlp(64, 64, 64, 10), spoiled(weight=0.02)),
         lr=1e-3, owned=lambda model: list(model.parameters())[1:2]),
    Case("stale", ("untrained parameters",), lr=1e-3, owned=lambda model: [*model[:3].parameters(), model[4].bias]),
    Case("frozen", ("untrained parameters",), lambda: frozen(mlp(64, 64, 64, 10)), decay=1e-3),
    Case("in a list", ("untrained parameters",), lambda: hide(mlp(64, 64, 64, 10)), lr=1e-3),
    Case("detached", ("untrained parameters",), lambda: Through(mlp(64, 64, 64), lambda h: 1e-3 * h.detach()), lr=1e-3),
    Case("own L2 in the loss", (UNDECLARED,), crush=0.1),
    Case("code died", ("dead units", "a code that lost the input"), Sparse, itself, "adam", 3e-3, term=1.0,
         loss=F.mse_loss),
    Case("posterior collapsed", ("a code that lost the input",), Vae, itself, "adam", 2e-3, term=1.0, loss=F.mse_loss),
    Case("softmax over one", ("an output that cannot vary",), loss=one_sigmoid, decay=1e-2,
         model=lambda: nn.Sequential(*mlp(64, 32, 1), nn.Softmax(1))),
    Case("noise for inputs", (UNKNOWN, "too short or too slow"), data=noise, lr=0.01, decay=1e-3),
]  # fmt: skip


def cells(asked: Options) -> list[Cell]:
    """Every case, seed by seed."""
    wanted = asked.more["cases"]
    names = [case.name for case in CASES if not wanted or case.name in wanted]
    return [{"run": f"{name}/{seed}"} for seed in range(asked.seeds) for name in names]


def judged(cell: Cell, asked: Options) -> Row:
    """Train and judge one case."""
    torch.set_num_threads(1)
    name, _, seed = cell["run"].rpartition("/")
    with tempfile.TemporaryDirectory() as folder:
        return _judged(next(case for case in CASES if case.name == name), int(seed), Path(folder) / "run.h5")


def _judged(case: Case, seed: int, path: Path) -> Row:
    began = time.monotonic()
    case.train(path, seed)
    with Record(path) as record:
        judge, checker = Judge(record.info), Checker(record.info)
        feed({judge: JUDGED, checker: NEEDED}, record)
        told = judge.diagnosis(finished=True)
        live = judge.failure or (judge.withdrawn[0] if judge.withdrawn else None)
        called = "" if live is None or live.decided >= case.steps - 1 else live.decided
        names = ("loss_gradient_norm", "weight_norm", "penalised")
        rows = {name: np.concatenate([block[name] for block in record.blocks(names[:2])]) for name in names[:2]}
        stops = thermoclaw({**rows, "names": record.info.parameters, "penalised": record.info.penalised}, 0)
    return {
        "kind": case.name, "optimizer": case.optimizer, "right": "|".join(case.right),
        "failed": told.failed, "verdict": str(told.verdict), "cause": told.cause, "called": called,
        "steps": case.steps, "findings": "|".join(sorted({f.rule for f in checker.findings})), "thermoclaw": stops,
        "seconds": f"{time.monotonic() - began:.1f}",
    }  # fmt: skip


def figures(rows: Sequence[Row]) -> Iterator[str]:
    """Figures of merit, a line each."""

    def share(hits: list[bool]) -> str:
        return f"{sum(hits)} of {len(hits)}"

    meant = [row for row in rows if row["right"]]
    fail = [row for row in meant if row["failed"] == "True"]
    learn = [row for row in rows if row["failed"] != "True" and row not in meant]
    crushed, other = ([row for row in fail if (PENALTY in row["right"].split("|")) == by] for by in (True, False))
    stopped = [[row["thermoclaw"] not in ("", "None") for row in some] for some in (learn, crushed)]
    yield f"runs that were meant to fail and do, by the label: {len(fail)} of {len(meant)}"
    yield f"called before their end: {share([row['called'] != '' for row in fail])}"
    yield f"false alarms, taken back or not: {share([row['called'] != '' for row in learn])} runs that learn"
    yield f"right cause: {share([row['cause'] in row['right'].split('|') for row in fail])}"
    yield f"the penalty's failures: {share([row['cause'] == PENALTY for row in crushed])} told as such"
    yield f"the penalty blamed where it is innocent: {share([row['cause'] == PENALTY for row in other])}"
    yield f"thermoclaw: {share(stopped[0])} false alarms, {share(stopped[1])} of the penalty's failures"
    for row in rows:
        wrong = row["cause"] not in row["right"].split("|") if row["right"] else row["failed"] == "True"
        if wrong:
            said, right = row["cause"] or "no cause", row["right"] or "it learns"
            yield f"  {row['run']}: {row['verdict']}, {said}; right: {right}"
