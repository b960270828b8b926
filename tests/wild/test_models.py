"""Models that are made of unusual parts, or looked at while they learn: LoRA, parametrizations, EMA, SWA, export."""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

import gradscope
from gradscope.diagnosis.rules.post_hoc import check
from tests.helpers import exact
from tests.helpers.loops import mlp
from tests.wild.frame import DECAY, Loop, capture, held, like

STEPS = 5


def plain(model: nn.Module, loop: Loop, optimizer: torch.optim.Optimizer, decay: object = DECAY, **skipped) -> None:
    """The plainest loop there is."""
    with loop.record(model, optimizer) as run:
        for (batch,) in exact.micro_batches(STEPS):
            loop.expect(model, lambda net: exact.loss_of(net, batch), decay, **skipped)  # noqa: B023  (called at once)
            optimizer.zero_grad()
            loss = exact.loss_of(model, batch)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)


class Adapted(nn.Linear):
    """A linear layer with a low-rank update beside it, merged into its weight for evaluation."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__(inputs, outputs)
        self.lora_a = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        self.merged = False

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.lora_b @ self.lora_a).detach()
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.linear(x, self.weight, self.bias)
        return out if self.merged else out + x @ self.lora_a.T @ self.lora_b.T


def adapted(loop: Loop) -> list[Tensor]:
    model = nn.Sequential(Adapted(6, 8), nn.ReLU(), Adapted(8, 3))
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=DECAY)
    plain(model, loop, optimizer, skipped=lambda name: "lora_" not in name)
    model.eval()
    with torch.no_grad():
        model(torch.ones(2, 6))
    model.train()
    return list(model.parameters())


def test_low_rank_adapters_on_a_frozen_model(tmp_path: Path) -> None:
    dataset = held(adapted, tmp_path).dataset()
    told = capture(dataset)
    assert sorted(told["frozen"]) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert sorted(told["not_recorded"]) == sorted(told["frozen"])
    assert (dataset["weight_zero_fraction"].sel(parameter="2.lora_b").values[0]) == 1


class Lists(nn.Module):
    """Parameters in lists and dictionaries, one of which no forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([torch.randn(6, 6) / 3 for _ in range(3)])
        self.by_name = nn.ParameterDict({"gain": torch.ones(6), "unused": torch.ones(2, 2)})
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return self.head(x * self.by_name["gain"])


def listed(loop: Loop) -> list[Tensor]:
    model = Lists()
    plain(model, loop, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=DECAY))
    return list(model.parameters())


def test_lists_and_dictionaries_of_parameters(tmp_path: Path) -> None:
    dataset = held(listed, tmp_path).dataset()
    assert {"matrices.2", "by_name.gain", "by_name.unused"} <= set(dataset["parameter"].values)
    assert np.isnan(dataset["loss_gradient_norm"].sel(parameter="by_name.unused").values).all()


def normed(loop: Loop) -> list[Tensor]:
    """Weight norm's magnitudes and directions, spectral norm's power iteration in every training forward."""
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(8, 8)),
        nn.Linear(8, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=DECAY)
    with loop.record(model, optimizer) as run:
        for (batch,) in exact.micro_batches(STEPS):
            loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
            loop.forget("activation_mean_abs")  # a parametrized layer is no leaf: see its own test
            optimizer.zero_grad()
            loss = exact.loss_of(model, batch)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return [*model.parameters(), *model.buffers()]


def test_parametrizations(tmp_path: Path) -> None:
    dataset = held(normed, tmp_path).dataset()
    assert "0.parametrizations.weight.original1" in dataset["parameter"].values


class Tied(nn.Module):
    """Encoder and decoder share one matrix, used transposed; a buffer holds a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 6) / 2)
        self.shift = nn.Parameter(torch.zeros(6))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return torch.tanh((x - self.mean) @ self.matrix.T) @ self.matrix + self.shift


def autoencoder(loop: Loop) -> list[Tensor]:
    """A loss summed over the batch, and the model is no leaf though it has parameters and no children."""
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with loop.record(model, optimizer) as run:
        for ((x, _),) in exact.micro_batches(STEPS):

            def loss_of(net: nn.Module, x: Tensor = x) -> Tensor:
                return nn.functional.mse_loss(net(like(x, net)), like(x, net), reduction="sum")

            loop.expect(model, loss_of)
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            run.log(loss=loss / len(x))
    return [*model.parameters(), model.mean]


def test_an_autoencoder_with_one_matrix(tmp_path: Path) -> None:
    assert held(autoencoder, tmp_path).dataset()["module"].values.tolist() == ["Tied"]


def test_a_summed_loss_is_not_held_against_a_guess(tmp_path: Path) -> None:
    """The baseline of a loss of unknown kind is a guess: no rule says that the loss begins far above it."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    path = tmp_path / "run.h5"
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        for ((x, _),) in exact.micro_batches(40):
            optimizer.zero_grad()
            out = model(x)
            loss = 100 * nn.functional.binary_cross_entropy_with_logits(out, (out > 0).float(), reduction="sum")
            loss = loss + 50 * out.square().sum()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    with gradscope.open_run(path) as dataset:
        assert capture(dataset)["baseline_loss"].startswith("guessed")
        assert not [one for one in (*run.findings, *check(dataset).findings) if one.kind == "loss"]


def averaged(loop: Loop) -> list[Tensor]:
    """An exponential average kept by hand, beside SWA: its averages and the pass that renews batch statistics."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=DECAY)
    ema, swa = copy.deepcopy(model).requires_grad_(False), AveragedModel(model)
    schedule = SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)
    data = [batch for batches in exact.micro_batches(3) for batch in batches]
    with loop.record(model, optimizer) as run:
        for epoch in range(3):
            for batch in data:
                loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
                optimizer.zero_grad()
                loss = exact.loss_of(model, batch)
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
                for mine, theirs in zip(ema.parameters(), model.parameters(), strict=True):
                    mine.data.lerp_(theirs.data, 0.1)
            if epoch:
                swa.update_parameters(model)
                schedule.step()
        update_bn(data, swa)
    return [*model.parameters(), *ema.parameters(), *swa.state_dict().values()]


def test_averages_of_weights(tmp_path: Path) -> None:
    rates = held(averaged, tmp_path).dataset()["learning_rate"].values[:, 0]
    assert rates[0] == np.float32(0.1)
    assert rates[-1] < 0.1


def test_a_recording_among_the_arguments_of_a_script(tmp_path: Path) -> None:
    """They are copied, and saved in checkpoints that other machines load."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = argparse.Namespace(lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore") as args.run:
        for (batch,) in exact.micro_batches(2):
            loss = exact.loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            copy.deepcopy(args).run.log(loss=loss)
            torch.save({"model": model.state_dict(), "args": args}, tmp_path / "checkpoint.pt")
    assert b"gradscope" not in (tmp_path / "checkpoint.pt").read_bytes()
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=False)["args"]
    assert loaded == argparse.Namespace(lr=0.1, run=str(tmp_path / "run.h5"))
    with gradscope.open_run(tmp_path / "run.h5") as dataset:
        assert np.isfinite(dataset["loss"].values).all()


class Gain(nn.Module):
    """A normalisation of one's own, whose gain has the axes of what it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1) * self.gain


def test_a_gain_with_many_axes_is_no_matrix_of_equal_units(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), Gain(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore") as run:
        for (batch,) in exact.micro_batches(20):
            optimizer.zero_grad()
            exact.loss_of(model, batch).backward()
            optimizer.step()
    assert not [finding for finding in run.findings if finding.kind == "equal"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_is_exported_while_it_learns(tmp_path: Path) -> None:
    def exported(loop: Loop) -> list[Tensor]:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=DECAY)
        with loop.record(model, optimizer) as run:
            for step, (batch,) in enumerate(exact.micro_batches(4)):
                if step == 2:
                    program = torch.export.export(model, (batch[0],))
                    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
                    assert kinds <= {"aten.linear.default", "aten.relu.default"}, kinds
                loop.expect(model, lambda net: exact.loss_of(net, batch), DECAY)  # noqa: B023  (called at once)
                optimizer.zero_grad()
                loss = exact.loss_of(model, batch)
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
        return list(model.parameters())

    held(exported, tmp_path)
