"""A record as typed values, held against the dataset of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gradscope
from gradscope.quantities import JUDGED
from gradscope.store import record as room
from gradscope.store.record import Record
from gradscope.types import InputError
from tests.helpers.handmade import handmade
from tests.helpers.loops import mlp, train
from tests.torture import scenario


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "r.h5"
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.02)
    how = {"preset": "full", "horizon": 120, "on_failure": "ignore"}
    with gradscope.record(model, optimizer, path, **how) as run:  # type: ignore[arg-type]
        for epoch in range(2):
            run.epoch(epoch, accuracy=0.1 * epoch)
            train(model, optimizer, 60, run)
    return path


def same(record: Record, dataset: object) -> None:
    """Every variable of both, with its type."""
    names = {str(name) for name in dataset.variables} - {"parameter", "module", "bin", "unit"}  # type: ignore[attr-defined]
    assert names == {"step", *record.dims}
    for name in names:
        there = dataset[name].values  # type: ignore[index]
        here = record.column(name)
        assert here.dtype == there.dtype, name
        np.testing.assert_array_equal(here, there, name)


def test_every_variable_is_that_of_the_dataset(full: Path) -> None:
    with Record(full) as record, gradscope.open_run(full) as dataset:
        same(record, dataset)
        assert record.info.parameters == tuple(dataset["parameter"].values)
        assert record.info.modules == tuple(dataset["module"].values)
        np.testing.assert_array_equal(record.bins, dataset["bin"].values)
        assert record.attributes.keys() == dataset.attrs.keys()
        assert (record.rows, record.steps_run, record.epochs, record.horizon) == (120, 120, 2, 120)
        assert (record.status, record.penalty, record.preset, record.schedule) == ("finished", "l2", "full", "constant")
        assert (record.optimizer, record.learning_rate) == ("SGD", 0.1)
        assert str(record.strength) == "weight_decay 0.02 (λ 0.01)"
        assert record.switched_on == 0
        assert record.shapes["0.weight"] == (8, 6)
        assert record.metrics["accuracy"].tolist() == [0.0, 0.1]
        assert record.events[0] == {"step": 0, "kind": "strength", "text": "l2: weight_decay 0.02 (λ 0.01)"}
        assert record.sparsity == 0


def test_rows_of_a_column(full: Path) -> None:
    with Record(full) as record:
        whole = record.column("weight_norm")
        for rows in (slice(3, 9), slice(None, None, 7), slice(-4, None), slice(5, 5), [0, -1], 7, -1):
            np.testing.assert_array_equal(record.column("weight_norm", rows), whole[rows])
        with pytest.raises(InputError, match=r"holds no nonsense; it holds numel, penalised, group, "):
            record.column("nonsense")


def test_blocks_are_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = handmade(tmp_path / "r.h5", 5, 3000)
    monkeypatch.setattr(room, "BLOCK_CELLS", 1 << 12)
    with Record(path) as record:
        blocks = list(record.blocks((*JUDGED, "no such", "loss")))
        assert [len(block["step"]) for block in blocks] == [512] * 5 + [440]
        for name in blocks[0]:
            np.testing.assert_array_equal(np.concatenate([b[name] for b in blocks]), record.column(name))
        before = list(record.blocks(("loss",), before=1000))
        assert np.concatenate([block["step"] for block in before]).tolist() == list(range(1000))


def test_a_record_that_is_being_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    writer = scenario.writer(path)
    writer.append(scenario.block(0, 1500))
    writer.flush()
    with Record(path) as early:
        for start in range(1500, 4000, 500):
            writer.append(scenario.block(start, 500) | {"late": np.ones(500)})
            writer.flush()
        assert (early.rows, early.status, "late" in early) == (1500, "running", False)
        np.testing.assert_array_equal(early.column("weight_norm"), scenario.values(0, 1500))
    with Record(path) as later, gradscope.open_run(path) as dataset:
        assert later.rows == 4000
        same(later, dataset)
    writer.close("finished")


def test_what_is_no_record_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    for name, said in (("none.h5", "there is no file"), ("text.h5", "is not an HDF5 file"), ("", "is a folder")):
        with pytest.raises(InputError, match=said):
            Record(tmp_path / name)
