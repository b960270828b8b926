"""The callback for Lightning, in real trainings, against the same training in a plain loop."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import gradscope
from gradscope.demo.data import digits
from gradscope.demo.training import network
from gradscope.recording import LearningFailureWarning
from gradscope.store.record import Record

# Lightning's own: advice on loggers and workers, and deprecations it has not followed yet.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(does not have many workers|`isinstance\\(treespec|litlogger).*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]
GRADIENTS = ("loss_gradient_mean_abs", "penalty_gradient_mean_abs", "proportion", "weight_norm", "weight_gradient_dot")
EXACT = 1e-5  # single precision in two orders of summation


def data(count: int) -> list[tuple[Tensor, Tensor]]:
    split = digits()
    return list(zip(split.x[:count].split(32), split.y[:count].split(32), strict=True))


def module(weight_decay: float = 0.02, layers: int = 3) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = network(layers, 32)

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.log("train/loss", loss, on_step=False, on_epoch=True)
            self.log("strength", 3.0)  # a name that the record uses itself
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, weight_decay=weight_decay)

    return Module()


def fit(
    model: Any, batches: Any, callbacks: list[Any], epochs: int, root: Path, ckpt: Path | None = None, **options: Any
) -> Any:
    import lightning

    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=callbacks, default_root_dir=root,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
        **{"enable_checkpointing": False, "logger": False, **options},
    )  # fmt: skip
    loaders = [DataLoader(part, batch_size=None) for part in (batches, batches[:2])]
    trainer.fit(model, *loaders, ckpt_path=ckpt)
    return trainer


def plain(path: Path, batches: Any, epochs: int, parts: int, clip: float, dtype: torch.dtype) -> nn.Module:
    """The same training by hand."""
    torch.manual_seed(0)
    net = network(3, 32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, weight_decay=0.02)
    with gradscope.record(net, optimizer, path, on_failure="ignore") as run:
        for epoch in range(epochs):
            run.epoch(epoch)
            for group in range(0, len(batches), parts):
                losses = []
                optimizer.zero_grad()
                for x, y in batches[group : group + parts]:
                    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                        loss = cross_entropy(net(x), y)
                    (loss / parts).backward()
                    losses.append(loss.detach())
                nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                run.log(loss=torch.stack(losses).mean())
    return net


def read(path: Path) -> xr.Dataset:
    with gradscope.open_run(path) as dataset:
        return dataset.load()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.slow
def test_the_same_rows_as_a_plain_loop(precision: str, tmp_path: Path) -> None:
    from gradscope.integrations.lightning import GradscopeCallback

    batches = data(32 * 10)
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    how = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.2, "precision": precision}
    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="ignore")
    watched, alone = module(), module()
    fit(watched, batches, [callback], 2, tmp_path, **how)
    fit(alone, batches, [], 2, tmp_path, **how)
    twin = plain(tmp_path / "twin.h5", batches, 2, 3, 0.2, dtype)
    for a, b, c in zip(watched.parameters(), alone.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    here, there = read(tmp_path / "run.h5"), read(tmp_path / "twin.h5")
    assert here.sizes["step"] == there.sizes["step"] == 8
    for name in (*GRADIENTS, "clip_coefficient", "loss", "strength", "learning_rate", "epoch"):
        np.testing.assert_allclose(here[name].values, there[name].values, rtol=EXACT, err_msg=name)
    assert (here["clip_coefficient"] < 1).any()
    assert here.attrs["horizon"] == 8
    assert "assumed: entropy of 10" in here.attrs["capture"]
    metrics = Record(tmp_path / "run.h5").metrics
    assert metrics["epoch"].tolist() == [0, 1]
    assert np.isfinite(metrics["accuracy"]).all()
    assert np.isfinite(metrics["train_loss"]).all()
    assert metrics["metric_strength"].tolist() == [3.0, 3.0]


@pytest.mark.slow
def test_a_failure_stops_the_trainer(tmp_path: Path) -> None:
    from gradscope.integrations.lightning import GradscopeCallback

    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="stop")
    with pytest.warns(LearningFailureWarning, match="collapsed from step 0.*The trainer is told to stop"):
        trainer = fit(module(0.3, layers=6), data(32 * 20), [callback], 50, tmp_path)
    assert trainer.should_stop
    assert trainer.global_step < 500
    assert callback.recording is None
    assert read(tmp_path / "run.h5").attrs["status"] == "failed"
    assert [e["kind"] for e in Record(tmp_path / "run.h5").events] == ["strength", "verdict"]


@pytest.mark.slow
def test_resumed_from_a_checkpoint(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from gradscope.integrations.lightning import GradscopeCallback

    batches = data(32 * 6)

    def go(path: Path, epochs: int, keep: Path | None = None, ckpt: Path | None = None) -> Any:
        saving = ModelCheckpoint(keep or tmp_path / f"{path.stem}-{epochs}", save_top_k=-1)
        model = module()
        callback = GradscopeCallback(path, on_failure="ignore")
        fit(model, batches, [callback, saving], epochs, tmp_path, enable_checkpointing=True, ckpt=ckpt)
        return model

    whole = go(tmp_path / "whole.h5", 4)
    go(tmp_path / "parts.h5", 3, keep=tmp_path / "kept")
    (second,) = (tmp_path / "kept").glob("epoch=1-*")  # of 3: the rows after it are dropped
    again = go(tmp_path / "parts.h5", 4, ckpt=second)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    here, there = read(tmp_path / "parts.h5"), read(tmp_path / "whole.h5")
    assert here["step"].values.tolist() == list(range(24))
    for name in (*GRADIENTS, "loss", "epoch"):
        np.testing.assert_allclose(here[name].values, there[name].values, rtol=EXACT, err_msg=name)
    with pytest.warns(UserWarning, match="is not there: it begins at the checkpoint, and counts its step 12 as 0"):
        go(tmp_path / "elsewhere.h5", 3, ckpt=second)
    assert read(tmp_path / "elsewhere.h5").sizes["step"] == 6


@pytest.mark.slow
def test_an_error_in_the_training_closes_the_record(tmp_path: Path) -> None:
    from gradscope.integrations.lightning import GradscopeCallback

    class Breaks(type(module())):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> Tensor:
            if index == 3:
                raise ValueError("the data end here")
            return super().training_step(batch, index)

    with pytest.raises(ValueError, match="the data end here"):
        fit(Breaks(), data(32 * 6), [GradscopeCallback(tmp_path / "run.h5")], 1, tmp_path)
    assert read(tmp_path / "run.h5").attrs["status"] == "failed"


def test_mistakes() -> None:
    from gradscope.integrations.lightning import GradscopeCallback

    with pytest.raises(gradscope.InputError, match="on_failure is 'halt'"):
        GradscopeCallback(on_failure="halt")
    with pytest.raises(TypeError, match="presets"):
        GradscopeCallback(presets="full")


@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("huggingface", "transformers")])
def test_without_the_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"gradscope.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"the package {package}, .* pip install 'gradscope-dynamics\[{package}\]'"):
        importlib.import_module(f"gradscope.integrations.{name}")


def test_the_trainers_own_logger_holds_the_main_quantities(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from gradscope.integrations.lightning import GradscopeCallback

    logger = CSVLogger(tmp_path / "csv", flush_logs_every_n_steps=1)
    callback = GradscopeCallback(tmp_path / "run.h5", on_failure="ignore", log_every=4)
    trainer = fit(module(), data(320), [callback], 2, tmp_path, logger=logger)
    kept = read(tmp_path / "run.h5")
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file) if row.get("gradscope/loss")}
    assert list(logged) == [0, 4, 8, 12, 16]
    np.testing.assert_allclose([float(row["gradscope/loss"]) for row in logged.values()], kept["loss"][::4], rtol=1e-6)
    assert all(0 < float(row["gradscope/proportion"]) < 1 for row in logged.values())
    assert trainer.global_step == kept.sizes["step"] == 20
    assert not any("gradscope" in name for name in Record(tmp_path / "run.h5").metrics)
