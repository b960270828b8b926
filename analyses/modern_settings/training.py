"""One cell: a recorded training as a stranger's script would be, and what gradscope tells its user."""

from __future__ import annotations

import json
import math
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from analyses.common import images
from analyses.common.loop import accuracy, crops
from analyses.common.results import Cell, Row
from analyses.common.study import Options
from analyses.modern_settings import text
from analyses.modern_settings.networks import CharacterTransformer, ViT, resnet18
from analyses.modern_settings.plan import SETTINGS, Setting
from gradscope.diagnosis.rules.post_hoc import check

CONTEXT, VALIDATED = 64, 256
TESTED = 2_000

Batches = Iterator[tuple[Tensor, Tensor]]


def network(how: Setting) -> nn.Module:
    """The net of a setting, at the size that two cores train in minutes."""
    if how.net == "resnet18":
        return resnet18(0.25)
    return ViT(64, 4) if how.net == "vit" else CharacterTransformer(len(text.CHARACTERS), CONTEXT, 64, 2)


def of_images(data: images.ImageSet, batch: int) -> Batches:
    """Epochs without end, in random order, cropped and mirrored."""
    augment = crops(4, data.flips)
    while True:
        for chosen in torch.randperm(len(data.x)).to(data.x.device).split(batch):
            yield augment(data.x[chosen]), data.y[chosen]


def of_text(characters: Tensor, batch: int) -> Batches:
    """Stretches from random places, and the character after each."""
    while True:
        start = torch.randint(len(characters) - CONTEXT, (batch, 1), device="cpu").to(characters.device)
        chosen = characters[start + torch.arange(CONTEXT + 1, device=characters.device)]
        yield chosen[:, :-1], chosen[:, 1:]


def train(cell: Cell, asked: Options) -> Row:
    """All steps, whatever the verdict is; no baseline is given, as a stranger gives none."""
    if asked.device == "cpu":
        torch.set_num_threads(1)
    how = SETTINGS[cell["setting"]]
    torch.manual_seed(cell["seed"])
    model = network(how).to(asked.device)
    options = {"lr": how.lr, "weight_decay": cell["weight_decay"]}
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), **options)
        if how.optimizer == "adamw"
        else torch.optim.SGD(model.parameters(), momentum=0.9, **options)
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, how.warmup)))
    if how.text:
        data = None
        read = text.sources()
        batches, baseline = of_text(read.train.to(asked.device), how.batch), read.entropy
    else:
        data = images.load(asked.dataset, folder=asked.data, count=how.images).to(asked.device)
        batches, baseline = of_images(data, how.batch), math.log(data.classes)
    first = weight(model)
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with gradscope.record(model, optimizer, path, horizon=how.steps, on_failure="ignore") as recording:
            for _, (x, y) in zip(range(how.steps), batches, strict=False):
                loss = cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recording.log(loss=loss)
                losses.append(loss.detach())
                rates.step()
        told = said(path, recording.verdict)
    level = float(torch.stack(losses[-max(1, how.steps // 20) :]).mean())
    return {
        "loss": _short(level),
        "baseline": _short(baseline),
        "failed_by_label": not level < 0.95 * baseline,
        "curve": [_short(float(part.mean())) for part in torch.stack(losses).split(max(1, how.steps // 20))],
        **(validated(model, text.sources(), asked.device) if data is None else tested(model, data)),
        "weights": [_short(first), _short(weight(model))],
        **told,
        "python": platform.python_version(),
    }


def said(path: Path, verdict: gradscope.Diagnosis) -> Row:
    """What the user of this record is told."""
    with gradscope.open_run(path) as record:
        found = check(record).findings
        capture = json.loads(record.attrs["capture"])
    invariant = (capture.get("scale_invariant") or {}).get("parameters") or []
    return {
        "verdict": str(verdict.verdict), "failed": verdict.failed, "decided": verdict.decided_step,
        "probability": _short(verdict.probability_failed), "told": verdict.explanation,
        "findings": sorted({f"{one.rule}/{one.kind}" for one in found}),
        "invariant": len(invariant), "of_parameters": int(record.sizes["parameter"]),
    }  # fmt: skip


def tested(model: nn.Module, data: images.ImageSet) -> Row:
    """Accuracy on the first 2,000 test images, 200 of each class."""
    return {"accuracy": round(accuracy(model, data.x_test[:TESTED], data.y_test[:TESTED]), 4)}


@torch.no_grad()
def validated(model: nn.Module, read: text.Text, device: str) -> Row:
    """The loss in nats a character on text of other files, always the same stretches."""
    starts = torch.linspace(0, len(read.validation) - CONTEXT - 1, VALIDATED).long()[:, None]
    chosen = read.validation[starts + torch.arange(CONTEXT + 1)].to(device)
    model.eval()
    return {"validation_loss": _short(float(cross_entropy(model(chosen[:, :-1]), chosen[:, 1:])))}


def weight(model: nn.Module) -> float:
    """The norm of all parameters together."""
    return float(torch.stack([p.detach().double().norm() for p in model.parameters()]).norm())


def _short(value: float) -> float:
    return float(f"{value:.4g}")
