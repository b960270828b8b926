"""The callback for Hugging Face's Trainer, in real trainings, against the same training in a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import gradscope
from gradscope.demo.data import digits
from gradscope.demo.training import network
from gradscope.recording import LearningFailureWarning
from gradscope.store.record import Record

# Slow is the loading of transformers, not the trainings; `make test` runs the example of the documentation.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
GRADIENTS = ("loss_gradient_mean_abs", "penalty_gradient_mean_abs", "proportion", "weight_norm", "weight_gradient_dot")
EXACT = 1e-5  # single precision in two orders of summation


class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, count: int) -> None:
        split = digits()
        self.x, self.y = split.x[:count].reshape(-1, 1, 8, 8), split.y[:count]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.x[index], "labels": self.y[index]}


def vit(layers: int = 1) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_attention_heads": 2}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ViTConfig(num_hidden_layers=layers, intermediate_size=32, num_labels=10, **shape, **dropouts)
    return ViTForImageClassification(config)


class Plain(nn.Module):
    """Any module will do: ViT of transformers 5.23 is saved under names by which it is not found again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = network(3, 16)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(pixel_values.flatten(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer(model: nn.Module, count: int, callbacks: list[Any], root: Path, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    extra = {name: options.pop(name) for name in ("compute_loss_func", "compute_metrics") if name in options}
    given = {
        "num_train_epochs": 2, "per_device_train_batch_size": 32, "learning_rate": 3e-3, "weight_decay": 0.1,
        "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
        "logging_steps": 3, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    arguments = TrainingArguments(str(root / "out"), **{**given, **options})
    return Trainer(model, arguments, train_dataset=Images(count), eval_dataset=Images(64), callbacks=callbacks, **extra)


def plain(model: nn.Module, path: Path, made: Any, count: int, parts: int, clip: float, bf16: bool) -> None:
    """What `made`, a Trainer, would do, by hand: its optimizer's settings, its learning rates."""
    optimizer = made.create_optimizer()
    batches = list(made.get_train_dataloader())
    steps = 2 * -(-len(batches) // parts)
    scheduler = made.create_scheduler(steps, optimizer)
    with gradscope.record(model, optimizer, path, on_failure="ignore") as run:
        for epoch in range(2):
            run.epoch(epoch)
            for first in range(0, len(batches), parts):
                group, losses = batches[first : first + parts], []
                for batch in group:
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        loss = model(**batch).loss
                    (loss / len(group)).backward()
                    losses.append(loss.detach())
                nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                run.log(loss=torch.stack(losses).mean())


def read(path: Path) -> xr.Dataset:
    with gradscope.open_run(path) as dataset:
        return dataset.load()


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_rows_as_a_plain_loop(bf16: bool, tmp_path: Path) -> None:
    from gradscope.integrations.huggingface import GradscopeCallback

    how = {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5, "bf16": bf16, "eval_strategy": "epoch"}
    count = 32 * 7  # the last step of an epoch has one micro-batch
    watched, alone, twin = vit(), vit(), vit()
    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="ignore")
    done = trainer(watched, count, [callback], tmp_path, compute_metrics=accuracy, **how)
    done.train()
    assert callback.recording is None
    trainer(alone, count, [], tmp_path, **how).train()
    plain(twin, tmp_path / "twin.h5", trainer(twin, count, [], tmp_path, **how), count, 3, 0.5, bf16)
    for a, b, c in zip(watched.parameters(), alone.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-7)
    here, there = read(tmp_path / "run.h5"), read(tmp_path / "twin.h5")
    assert here.sizes["step"] == there.sizes["step"] == 6
    for name in (*GRADIENTS, "clip_coefficient", "loss", "strength", "learning_rate", "epoch"):
        np.testing.assert_allclose(here[name].values, there[name].values, rtol=EXACT, atol=1e-9, err_msg=name)
    assert (here["clip_coefficient"] < 1).any()
    assert here.attrs["horizon"] == 6
    assert here.attrs["baseline_loss"] == pytest.approx(np.log(10))
    metrics = Record(tmp_path / "run.h5").metrics
    assert metrics["epoch"].tolist() == [0, 1]
    said = [log["eval_accuracy"] for log in done.state.log_history if "eval_accuracy" in log]
    np.testing.assert_allclose(metrics["eval_accuracy"], said)


def test_a_failure_stops_the_trainer(tmp_path: Path) -> None:
    from gradscope.integrations.huggingface import GradscopeCallback

    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="stop", baseline_loss=float(np.log(10)))
    how = {"num_train_epochs": 100, "learning_rate": 0.5, "optim": "sgd", "lr_scheduler_type": "constant"}
    doomed = trainer(vit(2), 32 * 10, [callback], tmp_path, weight_decay=0.5, **how)
    with pytest.warns(LearningFailureWarning, match="The trainer is told to stop"):
        doomed.train()
    assert doomed.state.global_step < 1000
    assert read(tmp_path / "run.h5").attrs["status"] == "failed"


def test_resumed_from_a_checkpoint(tmp_path: Path) -> None:
    from gradscope.integrations.huggingface import GradscopeCallback

    def go(path: Path, **options: Any) -> nn.Module:
        model = Plain()
        resume = options.pop("resume", None)
        callback = GradscopeCallback(path, on_failure="ignore")
        made = trainer(model, 32 * 6, [callback], tmp_path, lr_scheduler_type="constant", **options)
        made.train(resume_from_checkpoint=resume)
        return model

    whole = go(tmp_path / "whole.h5")
    go(tmp_path / "parts.h5", save_strategy="steps", save_steps=8, max_steps=10)  # the rows 8 and 9 are dropped
    again = go(tmp_path / "parts.h5", resume=str(tmp_path / "out" / "checkpoint-8"))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    here, there = read(tmp_path / "parts.h5"), read(tmp_path / "whole.h5")
    assert here["step"].values.tolist() == list(range(12))
    for name in (*GRADIENTS, "loss", "epoch"):
        np.testing.assert_allclose(here[name].values, there[name].values, rtol=EXACT, atol=1e-9, err_msg=name)


def test_another_loss_than_the_models(tmp_path: Path) -> None:
    from gradscope.integrations.huggingface import GradscopeCallback

    def doubled(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return 2 * nn.functional.cross_entropy(outputs.logits, labels)

    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="ignore")
    made = trainer(vit(), 32 * 6, [callback], tmp_path, compute_loss_func=doubled)
    with pytest.warns(
        UserWarning, match="the model's own puts out none: from here on the Trainer's average is recorded"
    ):
        made.train()
    loss = read(tmp_path / "run.h5")["loss"].values
    logged = [log["loss"] for log in made.state.log_history if "loss" in log]
    assert np.flatnonzero(np.isfinite(loss)).tolist() == [2, 5, 8, 11]
    np.testing.assert_allclose(loss[2::3], logged, rtol=1e-6)


def test_the_trainers_own_log_holds_the_main_quantities(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from gradscope.integrations.huggingface import GradscopeCallback

    class Reports(TrainerCallback):
        """As those that the Trainer reports to."""

        def __init__(self) -> None:
            self.seen: dict[int, dict[str, float]] = {}

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "gradscope/loss" in logs:
                self.seen[state.global_step] = logs

    reports = Reports()
    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="ignore", log_every=4)
    made = trainer(Plain(), 320, [reports, callback], tmp_path)
    made.train()
    kept = read(tmp_path / "run.h5")
    assert list(reports.seen) == [1, 5, 9, 13, 17]
    losses = [logs["gradscope/loss"] for logs in reports.seen.values()]
    np.testing.assert_allclose(losses, kept["loss"][::4], rtol=1e-6)
    history = [entry["step"] for entry in made.state.log_history if "gradscope/loss" in entry]
    assert history == list(reports.seen)
    assert not any("gradscope" in name for name in kept.variables)
    assert len([entry for entry in made.state.log_history if "loss" in entry]) == 6  # its own, every third step
