"""Bit rot inside a chunk is told, and never read as numbers."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from gradscope import InputError
from gradscope.store import redo_log
from gradscope.store.fletcher import fletcher32
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.store.recovery import recover
from gradscope.store.storage import Storage
from tests.torture import scenario

STORED = {"gzip": Storage(), "plain": Storage(compression=None), "lzf": Storage(compression="lzf")}


def record(path: Path, storage: Storage, close: bool = True) -> Path:
    w = scenario.writer(path, storage=storage)
    w.append(scenario.block(0, 1500))
    w.event(3, "note", "hello")
    w.epoch(0, {"accuracy": 0.5})
    w.flush()
    if close:
        w.close("finished")
    else:
        w._file.release()
        w._lock.abandon()
        redo_log.beside(path).unlink()  # it has been applied
    return path


def chunks(path: Path) -> dict[tuple[str, int], tuple[int, int]]:
    """Where each chunk is stored: its variable and number, its place and size."""
    found: dict[tuple[str, int], tuple[int, int]] = {}

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks and name not in ("events/kind", "events/text"):
            for n in range(item.id.get_num_chunks()):
                info = item.id.get_chunk_info(n)
                found[name, n] = info.byte_offset, info.size

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(look)
    return found


def read_all(path: Path) -> None:
    for group in (None, "events", "epochs"):
        with open_run(path, group) as dataset:
            dataset.load()


def read_as_values(path: Path) -> None:
    with Record(path) as record:
        for name in ("step", *record.dims):
            record.column(name)
        assert record.events is not None
        assert record.metrics


@pytest.mark.thorough
@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("close", [True, False], ids=["finished", "killed"])
def test_one_flipped_bit_in_any_chunk_is_told(tmp_path: Path, how: str, close: bool) -> None:
    path = record(tmp_path / "r.h5", STORED[how], close)
    read_all(path)
    read_as_values(path)
    sound, source = path.read_bytes(), random.Random(0)
    places = chunks(path)
    assert {name for name, _ in places} >= {"step", "loss", "weight_norm", "numel", "penalised", "epochs/accuracy"}
    for (name, _), (place, size) in places.items():
        data = bytearray(sound)
        data[place + source.randrange(size)] ^= 1 << source.randrange(8)
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            read_all(path)
        if name != "events/event":  # the numbers of events, which nobody asks for
            with pytest.raises(InputError, match="damaged"):
                read_as_values(path)


def test_other_readers_tell_it_too(tmp_path: Path) -> None:
    path = record(tmp_path / "r.h5", Storage(compression=None))
    place, _ = chunks(path)["loss", 1]
    with path.open("r+b") as file:
        file.seek(place + 5)
        file.write(b"\1")
    for engine in ("h5netcdf", "netcdf4"):
        with xr.open_dataset(path, engine=engine) as dataset, pytest.raises((OSError, RuntimeError)):
            dataset["loss"].load()


def test_recover_tells_rot_from_what_is_missing(tmp_path: Path) -> None:
    path = record(tmp_path / "r.h5", Storage(compression=None))
    place, _ = chunks(path)["loss", 0]
    with path.open("r+b") as file:
        file.seek(place + 5)
        file.write(b"\1")
    report = recover(path)
    assert report.missing == {"loss": [(0, 1023)]}
    assert report.why == {"loss": "a chunk does not have its checksum: it is not what was written (bit rot)"}
    with open_run(report.output) as dataset:
        assert np.isnan(dataset["loss"].values[:1024]).all()
        np.testing.assert_array_equal(dataset["loss"].values[1024:], scenario.values(1024, 476)[:, 0])


def test_the_checksum_is_that_of_hdf5(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for n in (1, 2, 7, 360, 721, 65536, 70001):
            for data in (source.integers(0, 256, n), np.zeros(n), np.full(n, 255)):
                made = file.create_dataset("d", data=data.astype(np.uint8), chunks=(n,), fletcher32=True)
                stored = made.id.read_direct_chunk((0,))[1]
                assert fletcher32(stored[:-4]) == int.from_bytes(stored[-4:], "little")
                del file["d"]


def test_records_without_checksums_are_read_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.h5"
    with monkeypatch.context() as before:
        create = h5py.Group.create_dataset
        before.setattr(h5py.Group, "create_dataset", lambda self, *a, fletcher32=None, **k: create(self, *a, **k))
        record(path, Storage())
    with h5py.File(path) as file:
        assert not file["loss"].fletcher32
    w = scenario.writer(path, mode="append", resume_step=1500)
    w.append(scenario.block(1500, 100))
    w.close("finished")
    with open_run(path) as dataset:
        np.testing.assert_array_equal(dataset["weight_norm"].values, scenario.values(0, 1600))
