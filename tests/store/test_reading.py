"""Reading: what is being written, what is large, what is damaged; and the table that everything is held to."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from gradscope_cli.main import run as command

import gradscope
from gradscope import InputError, RecordExistsError
from gradscope.store import chunks, redo_log, schema
from gradscope.store.follow import follow
from gradscope.store.growing_variables import bits_for, rounded
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.recovery import recover
from gradscope.store.storage import Storage
from gradscope.store.writer import Writer
from tests.helpers.loops import mlp, recorded
from tests.helpers.paths import ROOT
from tests.torture import scenario

PAGE = ROOT / "docs" / "file-format.md"


def finished(path: Path, rows: int = 3000, **options: object) -> Path:
    w = scenario.writer(path, **options)
    w.append(scenario.block(0, rows))
    w.epoch(0, {"accuracy": 0.5})
    w.event(3, "note", "hello")
    w.close("finished")
    return path


def test_the_documented_table_is_the_schema() -> None:
    assert schema.table() in PAGE.read_text(), "write it anew: python -m tests.helpers.file_format"


def test_every_variable_of_the_schema_can_be_written_and_read(tmp_path: Path) -> None:
    sizes = {"parameter": 2, "module": 3, "group": 1, "bin": 4, "unit": 5}
    static = {"numel": np.ones(2), "penalised": np.ones(2), "group": np.zeros(2)}
    edges = np.geomspace(1e-3, 1, 4)
    w = Writer(
        tmp_path / "r.h5", parameters=["a", "b"], modules=["m", "n", "o"], groups=1, static=static,
        attributes=scenario.ATTRIBUTES, bins=edges, units=[f"m:{i}" for i in range(5)],
    )  # fmt: skip
    growing = [v for v in schema.VARIABLES if v.dims[0] == "step"]
    w.append({v.name: np.ones((3, *(sizes[d] for d in v.dims[1:]))) for v in growing} | {"step": np.arange(3)})
    w.close("finished")
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(tmp_path / "r.h5", engine=engine) as dataset:
            for v in schema.VARIABLES:
                assert dataset[v.name].dims == v.dims
                assert str(dataset[v.name].dtype) == v.dtype
                assert dataset[v.name].attrs["units"] == v.units
                assert dataset[v.name].attrs["long_name"] == v.long_name
            np.testing.assert_array_equal(dataset["bin"].values, edges)
            assert dataset["unit"].values[4] == "m:4"


@pytest.mark.parametrize("tool", ["h5dump", "ncdump"])
def test_the_tools_of_others_read_it(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: hdf5-tools, netcdf-bin); it was not tried")
    path = finished(tmp_path / "r.h5", 1100)
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, check=True)
    assert "weight_norm" in done.stdout


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_filters(tmp_path: Path, compression: str | None) -> None:
    path = finished(tmp_path / "r.h5", storage=Storage(compression=compression))
    with h5py.File(path) as file:
        assert file["weight_norm"].compression == compression
        assert file["weight_norm"].shuffle == (compression is not None)
    with open_run(path) as dataset:
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 3000))


def test_the_unfinished_chunk_is_compressed_in_the_end(tmp_path: Path) -> None:
    w = scenario.writer(tmp_path / "r.h5")
    w.append(scenario.block(0, 1500))
    w.flush()
    w.close("finished")
    with h5py.File(tmp_path / "r.h5") as file:
        dataset = file["weight_norm"].id
        assert [dataset.get_chunk_info(i).filter_mask for i in range(2)] == [0, 0]


def test_rounding_to_digits_is_as_exact_as_it_says(tmp_path: Path) -> None:
    path = finished(tmp_path / "r.h5", storage=Storage(digits=4))
    with open_run(path) as dataset:
        said = dataset["weight_norm"].attrs["largest_relative_error"]
        exact = scenario.values(0, 3000)
        error = np.abs(dataset["weight_norm"].values / np.where(exact == 0, np.nan, exact) - 1)
        error = np.nanmax(error)
        assert 0 < error <= said <= 0.5e-4
        assert dataset["weight_norm"].attrs["significant_digits"] == 4
    odd = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 3.4028235e38, 1e-45], dtype=np.float32)
    np.testing.assert_array_equal(rounded(odd, bits_for(4))[:6], odd[:6])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flush_rows": 0}, "flush_rows is 0; expected a whole number"),
        ({"flush_seconds": 0}, "flush_seconds is 0; expected more than 0"),
        ({"digits": 7}, "digits is 7; expected at most 6"),
        ({"compression": "brotli"}, "compression is 'brotli'; expected gzip, lzf, None"),
        ({"compression": 31999}, "compression is 31999; expected gzip, lzf, None"),
        ({"compression": 4}, "compression is 4; expected gzip, lzf, None"),  # a level of gzip to h5py
        ({"compression": 1.5}, "compression is 1.5; expected gzip, lzf, None"),
    ],
)
def test_storage_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Storage(**given)


def test_a_recording_is_stored_as_asked(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path, storage = tmp_path / "r.h5", Storage(flush_rows=8, flush_seconds=1e6, compression="lzf", digits=3)
    recorded(path, model, optimizer, storage=storage)
    with h5py.File(path) as file:
        assert file["weight_norm"].compression == "lzf"
        assert file["weight_norm"].attrs["significant_digits"] == 3
    with pytest.raises(InputError, match=r"storage is 'lzf'; expected a Storage"):
        gradscope.record(model, optimizer, tmp_path / "s.h5", storage="lzf")  # type: ignore[arg-type]
    assert not (tmp_path / "s.h5").exists()


# -- while it is written --------------------------------------------------------------------------


def test_a_reader_sees_one_commit_for_as_long_as_it_wants(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1500))
    w.flush()
    with open_run(path) as early:
        for start in range(1500, 9000, 500):
            w.append(scenario.block(start, 500) | {"late": np.ones(500)})
            w.flush()
        assert early.sizes["step"] == 1500
        np.testing.assert_array_equal(early["weight_norm"].values, scenario.values(0, 1500))
        assert "late" not in early
    w.close("finished")


def test_no_reader_ever_sees_half_a_commit(tmp_path: Path) -> None:
    """Readers as fast as they can under a writer that commits all the time."""
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    seen: list[int] = []
    wrong: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                with open_run(path) as dataset:
                    rows = dataset.sizes["step"]
                    if rows:
                        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, rows))
                        np.testing.assert_array_equal(dataset["loss"].values, scenario.values(0, rows)[:, 0])
                seen.append(rows)
        except BaseException as error:
            wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for start in range(0, 6000, 100):
        w.append(scenario.block(start, 100))
        w.flush()
        while len(seen) <= start // 1000 and not wrong:  # on a busy machine a look takes long
            time.sleep(0.01)
        time.sleep(0.02)
    stop.set()
    reader.join()
    w.close("finished")
    assert not wrong, wrong
    assert len(set(seen)) > 3
    assert all(rows % 100 == 0 for rows in seen)


def test_follow_waits_for_the_file_and_ends_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"

    def life() -> None:  # in a process of its own, as a training is for whoever follows it
        time.sleep(0.1)
        w = scenario.writer(path)
        for start in range(0, 10000, 2500):
            w.append(scenario.block(start, 2500))
            w.flush()
            time.sleep(0.1)
        w.close("finished")

    training = multiprocessing.get_context("fork").Process(target=life)
    training.start()
    blocks = list(follow(path, ("weight_norm",), poll_seconds=0.02))
    training.join(30)
    assert training.exitcode == 0
    assert set(blocks[0]) == {"step", "weight_norm"}
    assert max(len(block["step"]) for block in blocks) <= 4096
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate([b["step"] for b in blocks]), np.arange(10000))
    np.testing.assert_array_equal(np.concatenate([b["weight_norm"] for b in blocks]), scenario.values(0, 10000))


def test_follow_ends_where_the_writer_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.store.follow.PATIENCE", 0.1)
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 100))
    w.flush()
    w._file.release()
    w._lock.release()
    assert sum(len(block["step"]) for block in follow(path, poll_seconds=0.02)) == 100
    (tmp_path / "note.h5").write_text("loss")
    with pytest.raises(InputError, match="not an HDF5 file"):
        next(follow(tmp_path / "note.h5", poll_seconds=0.02))


def test_diagnose_follow_tells_what_diagnose_tells(collapsed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["diagnose", "--follow", str(collapsed_run)]) == 3
    told = capsys.readouterr()
    assert "collapsed" in told.err
    assert command(["diagnose", str(collapsed_run)]) == 3
    assert capsys.readouterr().out == told.out
    assert command(["diagnose", "--follow", str(collapsed_run), str(collapsed_run)]) == 2
    assert "2 records were given; --follow takes one" in capsys.readouterr().err


def test_dask_chunks_for_what_does_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("dask", reason="Dask is not installed; chunks= was not tried")
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 5000))
    w.flush()
    for _ in range(2):  # running, then finished
        with open_run(path, chunks={"step": 1024}) as dataset:
            assert dataset["weight_norm"].chunks[0] == (1024, 1024, 1024, 1024, 904)
            mean = float(dataset["weight_norm"].mean().compute())
            assert mean == pytest.approx(scenario.values(0, 5000).mean(), abs=1e-6)
        w.close("finished")


# -- recovery -------------------------------------------------------------------------------------


def test_a_truncated_record_gives_what_is_left(tmp_path: Path) -> None:
    path = finished(tmp_path / "r.h5", 20000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"gradscope recover"):
        open_run(path)
    report = recover(path)
    assert path.read_bytes() == before
    assert not report.complete
    assert report.output == tmp_path / "r.recovered.h5"
    with open_run(report.output) as dataset:
        got = dataset["weight_norm"].values
    good = np.isfinite(got).all(1)
    expected = scenario.values(0, report.rows)
    np.testing.assert_array_equal(got[good], expected[good])
    gone = sum(last - first + 1 for first, last in report.missing["weight_norm"])
    assert gone == (~good).sum()
    assert good.mean() > 0.3


def test_garbage_in_the_middle_costs_the_chunks_it_hits(tmp_path: Path) -> None:
    path = finished(tmp_path / "r.h5", 20000)
    with h5py.File(path) as file:
        hit = {name: file[name].id.get_chunk_info(5) for name in ("weight_norm", "step")}
    with path.open("r+b") as raw:
        for chunk in hit.values():
            raw.seek(chunk.byte_offset)
            raw.write(b"\x55" * 100)
    with pytest.raises(InputError, match="damaged record"), open_run(path) as dataset:
        dataset["weight_norm"].load()
    report = recover(path, tmp_path / "saved.h5")
    assert report.missing == {"step": [(5120, 6143)], "weight_norm": [(5120, 6143)]}
    assert not report.lost
    with open_run(tmp_path / "saved.h5") as dataset:
        np.testing.assert_array_equal(dataset["step"].values, np.arange(20000))  # the rows around tell them
        np.testing.assert_array_equal(dataset["loss"].values, scenario.values(0, 20000)[:, 0])
        assert np.isnan(dataset["weight_norm"].values[5120:6144]).all()


def test_recover_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.h5"
    w = scenario.writer(path)
    w.append(scenario.block(0, 1500))
    w.flush()
    assert command(["recover", str(path)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    w._file.release()
    w._lock.abandon()
    log = redo_log.beside(path)
    log.write_bytes(log.read_bytes()[:-1])
    assert command(["recover", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["log"] == "incomplete: dropped"
    assert report["complete"]
    assert report["rows"] == 1500
    assert log.exists()
    assert command(["recover", str(path)]) == 2
    assert "exists already; give another path with -o" in capsys.readouterr().err
    assert command(["recover", str(path), "-o", str(tmp_path / "o.h5")]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    with open_run(tmp_path / "o.h5") as dataset:
        assert dataset.attrs["status"] == "failed"
        assert Record(tmp_path / "o.h5").events[-1]["kind"] == "recovered"
    (tmp_path / "note.h5").write_text("loss")
    assert command(["recover", str(tmp_path / "note.h5")]) == 2
    assert "nothing can be saved" in capsys.readouterr().err
    assert command(["recover", str(tmp_path / "none.h5")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert issubclass(RecordExistsError, InputError)


def test_a_long_file_is_read_quickly_because_of_few_pieces(tmp_path: Path) -> None:
    """What the reading time hangs on: a variable of 50 parameters comes in chunks of 1,024 rows."""
    assert h5py.File(finished(tmp_path / "r.h5"))["weight_norm"].chunks == (1024, scenario.PARAMETERS)


@pytest.fixture(scope="module")
def long_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve chunks and a bit; a variable that comes late, and one that has whole chunks of fill values."""
    path = tmp_path_factory.mktemp("long") / "r.h5"
    scenario.live(path, lambda _: None, flushes=(700, 3000, 5000, 4000, 10))
    return path


@pytest.mark.parametrize("rows", [slice(None), slice(1, 5000), slice(1024, 9216), slice(3, 12000), slice(100, 200)])
def test_many_rows_read_at_once_are_those_of_hdf5(long_record: Path, rows: slice) -> None:
    with open_run(long_record) as dataset, h5py.File(long_record, locking=False) as file:
        for name in (*scenario.NAMES, "late", "loss"):
            np.testing.assert_array_equal(dataset[name][rows].values, file[name][rows])


@pytest.mark.parametrize(("last", "aside"), [(5000, True), (3000, False)])
def test_many_rows_are_inflated_side_by_side(
    long_record: Path, monkeypatch: pytest.MonkeyPatch, last: int, aside: bool
) -> None:
    """Every chunk past HDF5 and its lock; in threads of their own from four chunks on."""
    threads: list[threading.Thread] = []
    decode = chunks.decode

    def seen(*what: Any) -> None:
        threads.append(threading.current_thread())
        decode(*what)

    monkeypatch.setattr(chunks, "decode", seen)
    with open_run(long_record) as dataset:
        for name in (*scenario.NAMES, "loss"):
            threads.clear()
            _ = dataset[name][:last].values
            assert len(threads) == -(-last // 1024), name
            assert all((thread is not threading.main_thread()) == aside for thread in threads), name


def test_a_finished_record_can_be_copied_and_sent_to_other_processes(long_record: Path) -> None:
    with open_run(long_record) as dataset:
        loss = dataset["loss"].values
        there = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(there["loss"].values, loss)
        np.testing.assert_array_equal(dataset.copy(deep=True)["loss"].values, loss)
        assert dataset.where(dataset["step"] >= 0)["loss"].sizes == dataset["loss"].sizes
        there.close()


@pytest.mark.parametrize("rows", [5, -1, [3, 5000, 4], slice(3, 13000, 700), slice(9000, 20, -1000), slice(7, 7)])
@pytest.mark.parametrize("columns", [slice(None), 2, slice(1, 4), [5, 0]])
def test_rows_and_columns_of_any_kind_are_those_of_numpy(long_record: Path, rows: Any, columns: Any) -> None:
    with open_run(long_record) as dataset, h5py.File(long_record, locking=False) as file:
        for name in (*scenario.NAMES, "loss"):
            key = dict(zip(dataset[name].dims, (rows, columns), strict=False))
            whole = file[name][:]
            expected = whole[rows] if whole.ndim == 1 else whole[rows][..., columns]
            np.testing.assert_array_equal(dataset[name].isel(key).values, expected)


def test_rows_that_cannot_be_inflated_are_told(long_record: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    path.write_bytes(long_record.read_bytes())
    with h5py.File(path) as file:
        chunk = file["loss"].id.get_chunk_info(3)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + 20)
        raw.write(bytes(range(200)))
    with open_run(path) as dataset:
        with pytest.raises(InputError, match=r"damaged record at loss: a chunk .* is not what was written"):
            _ = dataset["loss"].values
        assert dataset["loss"][:3072].values.shape == (3072,)
