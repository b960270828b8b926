"""Training scripts for one model: nanoGPT's, timm's, torchvision's, a language model's."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import exact
from tests.helpers.exact import Batch
from tests.helpers.loops import mlp
from tests.wild.frame import DECAY, Loop, capture, held, like

STEPS = 6


def mean_loss(batches: Sequence[Batch]):
    return lambda net: sum(exact.loss_of(net, batch) for batch in batches) / len(batches)


def two_groups(model: nn.Module, decay: float = DECAY) -> list[dict]:
    """Decay on matrices, none on vectors, as GPT-2 scripts and timm group them."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


def by_dimension(model: nn.Module) -> list[float]:
    return [DECAY if p.ndim > 1 else 0.0 for p in model.parameters()]


def gpt(loop: Loop) -> list[Tensor]:
    """nanoGPT: tied, fused AdamW, the rate set by hand, micro-steps, a disabled scaler, zeroed after the step."""
    model = exact.TiedTransformer()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.01, betas=(0.9, 0.95), fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with loop.record(model, optimizer) as run:
        for step, batches in enumerate(exact.micro_batches(STEPS, 3)):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (step + 1) / STEPS
            loop.expect(model, mean_loss(batches), by_dimension(model))
            for batch in batches:
                loss = exact.loss_of(model, batch) / len(batches)
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss * len(batches))
    return list(model.parameters())


def test_a_tied_gpt(tmp_path: Path) -> None:
    dataset = held(gpt, tmp_path).dataset()
    np.testing.assert_allclose(dataset["learning_rate"].values[:, 0], 0.01 * np.arange(1, STEPS + 1) / STEPS, rtol=1e-6)
    assert dataset["strength"].values[0].tolist() == [np.float32(DECAY / 2), 0.0]
    assert not dataset["skipped"].values.any()
    assert (dataset["clip_coefficient"].values < 0.9).all()
    assert "head.weight" not in dataset["parameter"].values  # tied: one parameter, under its first name
    told = capture(dataset)
    assert [(one["acts"], one["group"]) for one in told["penalties"]] == [("decoupled", 0), ("decoupled", 1)]
    assert told["measured_at_step"] == 0


def compiled(loop: Loop) -> list[Tensor]:
    """nanoGPT's other half: `torch.compile` before the recording, the optimizer made from the plain model."""
    torch._dynamo.reset()  # or code compiled for another net, without hooks, would serve this one too
    model = exact.TiedTransformer()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.01, foreach=True)
    fast = torch.compile(model, backend="aot_eager")
    with loop.record(fast, optimizer) as run:
        for (batch,) in exact.micro_batches(STEPS):
            loop.expect(model, mean_loss([batch]), by_dimension(model))
            loss = exact.loss_of(fast, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.log(loss=loss)
    return list(model.parameters())


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own, silenced outside of tests
def test_a_compiled_gpt(tmp_path: Path) -> None:
    dataset = held(compiled, tmp_path).dataset()
    assert not [name for name in dataset["parameter"].values if "_orig_mod" in name]


def timm(loop: Loop) -> list[Tensor]:
    """Accumulation whose last window is short, gradients clipped, an averaged copy, a rate by update, evaluation."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.01)
    averaged = copy.deepcopy(model).eval()
    data = [batch for batches in exact.micro_batches(5, 1) for batch in batches]
    with loop.record(model, optimizer) as run:
        for epoch in range(2):
            model.train()
            run.epoch(epoch)
            for window in (data[:2], data[2:4], data[4:]):
                loop.expect(model, mean_loss(window), by_dimension(model))
                for batch in window:
                    loss = exact.loss_of(model, batch) / len(window)
                    loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss * len(window))
                with torch.no_grad():
                    for mine, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
                        mine.copy_(0.9 * mine + 0.1 * theirs if mine.is_floating_point() else theirs)
                for group in optimizer.param_groups:
                    group["lr"] = 0.005 * (1 + math.cos(math.pi * epoch / 2))
            model.eval()
            with torch.no_grad():
                accuracy = (averaged(data[0][0]).argmax(1) == data[0][1]).float().mean()
            run.epoch(epoch, accuracy=accuracy)
    return [*model.parameters(), *averaged.state_dict().values()]


def test_an_image_script_with_an_averaged_copy(tmp_path: Path) -> None:
    dataset = held(timm, tmp_path).dataset()
    assert dataset["epoch"].values.tolist() == [0, 0, 0, 1, 1, 1]
    assert not capture(dataset)["not_recorded"]


def torchvision(loop: Loop) -> list[Tensor]:
    """Zeroed between forward and backward, a group for norms without decay, evaluation in `inference_mode`."""
    layers = nn.Conv2d(1, 4, 2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *layers)
    norm = list(model[2].parameters())
    others = [p for p in model.parameters() if all(p is not q for q in norm)]
    groups = [{"params": norm, "weight_decay": 0.0}, {"params": others, "weight_decay": DECAY}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    schedules = [torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=1)]
    schedules.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, schedules, [1])
    decays = [0.0 if any(p is q for q in norm) else DECAY for p in model.parameters()]
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    data = [batch for batches in exact.micro_batches(3) for batch in batches]
    with loop.record(model, optimizer) as run:
        for _ in range(2):
            model.train()
            for x, y in data:
                loop.expect(model, mean_loss([(x, y)]), decays)
                output = model(x)
                loss = nn.functional.cross_entropy(output, y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
                optimizer.step()
                averaged.update_parameters(model)
                run.log(loss=loss, accuracy=(output.argmax(1) == y).float().mean())
            schedule.step()
            for net in (model, averaged):
                net.eval()
                with torch.inference_mode():
                    nn.functional.cross_entropy(net(data[0][0]), data[0][1]).item()
    return [*model.parameters(), *averaged.state_dict().values()]


@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_a_classification_script(tmp_path: Path) -> None:
    dataset = held(torchvision, tmp_path).dataset()
    assert dataset["penalised"].values.tolist() == [
        p != "2" for p in (n.split(".")[0] for n in dataset.parameter.values)
    ]
    assert np.isfinite(dataset["accuracy"].values).all()


class Recurrent(nn.Module):
    """A next-token model whose state is handed on from window to window."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.cells = nn.LSTM(5, 5, batch_first=True)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, state = self.cells(self.embedding(tokens), state)
        return self.head(x), state


def truncated(loop: Loop) -> list[Tensor]:
    """Truncated backpropagation: the state is detached between windows; evaluation interrupts an epoch."""
    model = Recurrent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=DECAY)
    text = torch.randint(0, 7, (3, STEPS * 4 + 1), generator=torch.Generator().manual_seed(3))
    state = None
    with loop.record(model, optimizer) as run:
        for at in range(0, STEPS * 4, 4):
            tokens, targets = text[:, at : at + 4], text[:, at + 1 : at + 5]
            state = None if state is None else tuple(s.detach() for s in state)

            def loss_of(net: nn.Module, tokens=tokens, targets=targets, state=state) -> tuple[Tensor, object]:
                before = None if state is None else tuple(like(s, net) for s in state)
                out, after = net(tokens, before)
                return nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten()), after

            loop.expect(model, lambda net: loss_of(net)[0], DECAY)
            optimizer.zero_grad()
            loss, state = loss_of(model)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            run.log(loss=loss)
            model.eval()
            with torch.no_grad():
                model(text[:, :4], None)
            model.train()
    return list(model.parameters())


def test_a_language_model(tmp_path: Path) -> None:
    held(truncated, tmp_path)


class Distributed(nn.Module):
    """Stands for DDP in one process: gradients are averaged unless `no_sync` says not to."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.synced, self._sync = module, 0, True
        for p in module.parameters():
            p.register_post_accumulate_grad_hook(self._reduce)

    def _reduce(self, p: Tensor) -> None:
        self.synced += self._sync

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self._sync = False
        yield
        self._sync = True

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def accumulated(loop: Loop) -> list[Tensor]:
    """All micro-batches but the last of a step are kept to this rank; the last window is cut off by the data's end."""
    model = mlp()
    wrapped = Distributed(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for batches in exact.micro_batches(STEPS, 3):
            loop.expect(model, mean_loss(batches), DECAY)
            optimizer.zero_grad()
            for number, (x, y) in enumerate(batches):
                with contextlib.nullcontext() if number == 2 else wrapped.no_sync():
                    loss = nn.functional.cross_entropy(wrapped(x), y) / 3
                    loss.backward()
            optimizer.step()
            run.log(loss=3 * loss)
    assert wrapped.synced == STEPS * len(list(model.parameters()))
    return list(model.parameters())


def test_accumulation_with_no_sync(tmp_path: Path) -> None:
    told = capture(held(accumulated, tmp_path).dataset())
    assert [one["acts"] for one in told["penalties"]] == ["coupled"]


def line_search(loop: Loop) -> list[Tensor]:
    """LBFGS with a line search, in float64, on the whole data: the first evaluation of the closure is the row's."""
    model = mlp().double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    (batches,) = exact.micro_batches(1, 1, 16)
    with loop.record(model, optimizer) as run:
        for _ in range(4):
            loop.expect(model, mean_loss(batches))

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = exact.loss_of(model, batches[0])
                loss.backward()
                return loss

            run.log(loss=optimizer.step(closure))
            with torch.no_grad():
                model(batches[0][0].double())
    return list(model.parameters())


def test_a_line_search_in_double_precision(tmp_path: Path) -> None:
    held(line_search, tmp_path, rtol=1e-6)
