"""Exports, each read back by its own library: the same numbers, from finished, running and crashed records."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import zarr
from gradscope_cli.main import run as command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import gradscope
from gradscope.export import source
from gradscope.export.export import FORMATS, export
from gradscope.export.tables import label, main_variables
from gradscope.types import InputError
from tests.helpers.loops import mlp, train

ROWS = 130


def training(path: Path, steps: int = ROWS, preset: str = "full") -> Iterator[gradscope.Recording]:
    """A recording, handed out before it is closed."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    options: dict[str, Any] = {"preset": preset, "steps_per_epoch": 50, "on_failure": "ignore"}
    with gradscope.record(model, optimizer, path, **options) as run:
        run.epoch(0, accuracy=0.25, val_loss=1.5)
        train(model, optimizer, steps, run)
        run.epoch(2, accuracy=0.5)
        yield run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "run.h5"
    for _ in training(path):
        pass
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "small.h5"
    for _ in training(path, ROWS, "cheap"):
        pass
    return path


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks, the last one shorter."""
    monkeypatch.setattr(source, "MOST_ROWS", 128)


def written(record: Path, to: str, tmp_path: Path) -> tuple[Path, xr.Dataset]:
    made = export(record, to, tmp_path / f"out{FORMATS[to].suffix}")
    assert made.rows == ROWS
    assert not list(tmp_path.glob(".*"))
    return made.path, loaded(record)


@cache
def loaded(record: Path) -> xr.Dataset:
    with gradscope.open_run(record) as dataset:
        return dataset.load()


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    assert set(found.variables) == set(expected.variables)
    for name, v in expected.variables.items():
        assert found[name].dtype.kind == v.dtype.kind, name
        np.testing.assert_array_equal(found[name].values, v.values, err_msg=str(name))
        assert found[name].attrs.get("long_name") == v.attrs.get("long_name")
    assert found.attrs["config"] == expected.attrs["config"]


@pytest.mark.usefixtures("blocks")
def test_netcdf(small: Path, tmp_path: Path) -> None:
    path, expected = written(small, "netcdf", tmp_path)
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as found:
            same(found, expected)
    with xr.open_dataset(path, group="epochs") as epochs:
        assert epochs["accuracy"].values.tolist() == [0.25, 0.5]
    with netCDF4.Dataset(path) as file:
        np.testing.assert_array_equal(file["loss"][:].filled(np.nan), expected["loss"])
        assert file["loss"].long_name.startswith("loss of the data")
        assert file["events"]["kind"][0] == "strength"


@pytest.mark.usefixtures("blocks")
def test_zarr(small: Path, tmp_path: Path) -> None:
    path, expected = written(small, "zarr", tmp_path)
    with xr.open_zarr(path) as found:
        same(found, expected)
    with xr.open_zarr(path, group="events") as events:
        assert events["kind"].values[0] == "strength"
    file = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(file["loss_gradient_norm"][:], expected["loss_gradient_norm"])
    np.testing.assert_array_equal(file["epochs"]["accuracy"][:], [0.25, 0.5])


def check_tables(read: Any, path: Path, expected: xr.Dataset) -> None:
    """The main table and what lies beside it, whoever reads them."""
    table = read(path)
    assert len(table) == ROWS
    np.testing.assert_array_equal(table["step"], expected["step"])
    names = main_variables(expected)
    assert {"loss", "proportion", "strength"} <= set(names)
    for name in names:
        v = expected[name]
        columns = [name] if v.ndim == 1 else [label(name, n) for n in _names(v)]
        found = np.stack([table[c].to_numpy() for c in columns], axis=1).astype(v.dtype)
        np.testing.assert_array_equal(found, v.values.reshape(found.shape), err_msg=name)
    beside = lambda name: read(path.with_name(f"out.{name}{path.suffix}"))  # noqa: E731
    assert beside("parameters")["numel"].tolist() == expected["numel"].values.tolist()
    assert beside("epochs")["accuracy"].tolist() == [0.25, 0.5]
    assert beside("events")["kind"].tolist()[0] == "strength"


def test_histograms_and_units_are_tables_of_their_own(record: Path, tmp_path: Path) -> None:
    path, expected = written(record, "csv", tmp_path)
    check_tables(pd.read_csv, path, expected)
    beside = lambda name: pd.read_csv(path.with_name(f"out.{name}.csv"))  # noqa: E731
    counts = beside("weight_histogram").set_index(["step", "parameter", "bin"])["weight_histogram"]
    sampled = expected["weight_histogram"].dropna("step", how="all")
    assert sampled.sizes["step"] == 3  # every 50th
    found = counts.to_numpy().astype(np.float32).reshape(sampled.shape)
    np.testing.assert_array_equal(found, sampled)
    assert len(beside("activation_unit_mean_abs")) == ROWS * expected.sizes["unit"]


def _names(variable: xr.DataArray) -> Any:
    dim = variable.dims[1]
    return variable[dim].values if dim in variable.coords else range(variable.shape[1])


@pytest.mark.usefixtures("blocks")
def test_parquet(small: Path, tmp_path: Path) -> None:
    path, expected = written(small, "parquet", tmp_path)
    check_tables(pd.read_parquet, path, expected)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    assert file.schema_arrow.field("loss").type == "float"
    assert json.loads(file.schema_arrow.metadata[b"gradscope.config"])["preset"] == "cheap"


def test_tensorboard(record: Path, tmp_path: Path) -> None:
    path, expected = written(record, "tensorboard", tmp_path)
    (run,) = path.iterdir()
    assert run.name == record.stem  # TensorBoard calls a run by its folder
    log = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
    log.Reload()
    for tag, values in {
        "loss": expected["loss"],
        "proportion/0.weight": expected["proportion"].sel(parameter="0.weight"),
        "activation_std/2": expected["activation_std"].sel(module="2"),
        "strength/0": expected["strength"][:, 0],
    }.items():
        found = log.Scalars(tag)
        there = values.values[~np.isnan(values.values)]
        np.testing.assert_array_equal(np.float32([e.value for e in found]), there, err_msg=tag)
        assert [e.step for e in found] == expected["step"].values[~np.isnan(values.values)].tolist()
    assert [(e.step, e.value) for e in log.Scalars("epochs/accuracy")] == [(0, 0.25), (2, 0.5)]
    assert b"could have been known at step" in _text(log, "verdict") or b"undecided" in _text(log, "verdict")
    assert b'"lr": 0.1' in _text(log, "config")
    assert "weight_decay 0.01 (λ 0.005)".encode() in _text(log, "events/strength")
    buckets = tensor_util.make_ndarray(log.Tensors("weight_histogram/0.weight")[0].tensor_proto)
    np.testing.assert_array_equal(buckets[:, 2], expected["weight_histogram"][0, 0])
    bins = expected["bin"].values
    np.testing.assert_allclose(2.0 ** buckets[2:, 0], bins[2:])  # edges are log₂ of those in the record
    assert "_hparams_/session_start_info" in log.Tags()["tensors"]


def _text(log: EventAccumulator, tag: str) -> bytes:
    return bytes(tensor_util.make_ndarray(log.Tensors(tag)[0].tensor_proto)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # of TensorBoard's own modules
def test_tensorboard_itself_shows_it(record: Path, tmp_path: Path) -> None:
    """Its server answers with our tags, texts and hyper-parameters."""
    from urllib.request import Request, urlopen

    from tensorboard import program

    export(record, "tensorboard", tmp_path / "logs")
    board = program.TensorBoard()
    board.configure(logdir=str(tmp_path), port=0, load_fast="false", reload_interval=0)
    url = board.launch()

    def ask(place: str, data: bytes | None = None) -> Any:
        with urlopen(Request(f"{url}data/plugin/{place}", data, {"Content-Type": "application/json"})) as answer:
            return json.loads(answer.read())

    for _ in range(600):  # it answers while it is still loading
        if "verdict" in ask("text/tags").get("logs/run", ()):
            break
        time.sleep(0.1)
    assert "proportion/0.weight" in ask("scalars/tags")["logs/run"]
    shown = ask("scalars/scalars?run=logs/run&tag=loss")  # it shows a sample of them
    expected = dict(enumerate(loaded(record)["loss"].values.tolist()))
    assert len(shown) > 40
    assert all(value == expected[step] for _, step, value in shown)
    assert "verdict" in ask("text/tags")["logs/run"]
    assert "weight_histogram/0.weight" in ask("histograms/tags")["logs/run"]
    wanted = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"], "startIndex": 0,
              "sliceSize": 9, "colParams": []}  # fmt: skip
    (group,) = ask("hparams/session_groups", json.dumps(wanted).encode())["sessionGroups"]
    assert group["hparams"]["group 0: lr"] == 0.1
    assert group["hparams"]["penalty"] == "l2"


def test_a_part_of_a_record(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "part.csv"
    how = ["--variables", "loss, weight_*", "--parameters", r"^0\.", "--every", "4", "-o", str(out)]
    assert command(["export", str(small), "--to", "csv", *how]) == 0
    table, expected = pd.read_csv(out), loaded(small)
    assert table["step"].tolist() == list(range(0, ROWS, 4))
    weights = [str(n) for n in expected.data_vars if str(n).startswith("weight_")]
    assert set(table) == {"step", "time", "loss"} | {f"{n}/0.{p}" for n in weights for p in ("weight", "bias")}
    np.testing.assert_array_equal(
        table["weight_norm/0.weight"].astype(np.float32), expected["weight_norm"].sel(parameter="0.weight")[::4]
    )
    board = tmp_path / "board"
    assert command(["export", str(small), "--to", "tensorboard", "-o", str(board), "--variables", "loss"]) == 0
    log = EventAccumulator(str(board / "small"), size_guidance={"scalars": 0, "tensors": 0})
    log.Reload()
    assert set(log.Tags()["scalars"]) >= {"loss", "time"}
    assert not any(tag.startswith(("weight", "proportion")) for tag in log.Tags()["scalars"])
    capsys.readouterr()
    for part, said in (
        (["--variables", "los"], "holds no variable 'los'; it holds loss"),
        (["--parameters", "nothing"], "--parameters 'nothing' is in no name of"),
        (["--parameters", "("], "not a regular expression"),
        (["--every", "0"], "--every is 0"),
    ):
        line = refused(["export", str(small), "--to", "csv", "-o", str(tmp_path / "no.csv"), *part], capsys)
        assert said.split(";")[0] in line, line


def test_running_and_crashed_records(tmp_path: Path) -> None:
    live, left = tmp_path / "live.h5", tmp_path / "left.h5"
    for run in training(live, 40, "cheap"):
        run._recorder.fetch(open_row=True)
        run._notes.writer.flush()
        for suffix in ("", ".log"):  # as a killed process leaves it
            shutil.copy(f"{live}{suffix}", f"{left}{suffix}")
        assert export(live, "csv").rows == 40
    assert export(left, "csv").path == tmp_path / "left.csv"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "live.csv"), pd.read_csv(tmp_path / "left.csv"))


# -- mistakes ---------------------------------------------------------------------------------------


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("gradscope: ")
    return line


def test_the_command(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.csv"
    assert command(["export", str(small), "--to", "csv", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == ROWS
    assert {Path(p).name for p in told["beside"]} >= {"t.epochs.csv", "t.events.csv", "t.parameters.csv"}
    assert all(Path(p).exists() for p in (told["path"], *told["beside"]))


def test_nothing_is_written_over(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(to: str, out: Path, *more: str) -> str:
        return refused(["export", str(small), "--to", to, "-o", str(out), *more], capsys)

    out = tmp_path / "t.csv"
    out.write_text("mine")
    assert "exists; give another path with -o, or --force" in go("csv", out)
    assert out.read_text() == "mine"
    out.unlink()
    (tmp_path / "t.events.csv").write_text("mine")
    assert "t.events.csv exists" in go("csv", out)  # and so does nothing else appear
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.events.csv"]
    export(small, "csv", out, force=True)
    assert (tmp_path / "t.events.csv").read_text() != "mine"
    assert "is the record itself" in go("netcdf", small, "--force")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.png").touch()
    assert "a folder that no export wrote" in go("zarr", folder, "--force")
    export(small, "zarr", tmp_path / "z")
    assert "exists" in go("zarr", tmp_path / "z")
    export(small, "zarr", tmp_path / "z", force=True)


def test_an_export_that_fails_leaves_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradscope.export import csv

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "small_tables", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        export(small, "csv", tmp_path / "t.csv")
    assert not list(tmp_path.iterdir())


def test_mistakes(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go = ["export", str(small), "--to"]
    assert "--to is 'excel'; expected one of tensorboard, netcdf, zarr, parquet, csv" in refused([*go, "excel"], capsys)
    assert "Missing option '--to'" in refused(["export", str(small)], capsys)
    assert "there is no folder" in refused([*go, "csv", "-o", str(tmp_path / "no" / "t.csv")], capsys)
    assert "there is no file" in refused(["export", str(tmp_path / "none.h5"), "--to", "csv"], capsys)
    empty = tmp_path / "empty.h5"
    for _ in training(empty, 0, "cheap"):
        pass
    assert "is empty: no training step" in refused(["export", str(empty), "--to", "csv"], capsys)


@pytest.mark.parametrize(("to", "package"), [("zarr", "zarr"), ("parquet", "pyarrow"), ("tensorboard", "tensorboard")])
def test_a_missing_package(
    small: Path, to: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"gradscope.export.{to}", raising=False)
    message = refused(["export", str(small), "--to", to], capsys)
    advice = "pip install 'gradscope-dynamics[export]'"
    assert f"--to {to} needs the package {package}, which is not installed: {advice}" in message
