"""Records made to hurt whoever opens them, and what may stand beside a record."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from isal import isal_zlib

from gradscope.store import redo_log
from tests.torture.records import Crashed

SECRET = "what another file holds"


def one_text_many_times(path: Path) -> None:
    """Three megabytes, to which 1,200 events lead."""
    with h5py.File(path, "r+") as file:
        events = file["events"]
        for name, value in (("event", 0), ("step", 0), ("kind", "x"), ("text", "x" * 3_000_000)):
            events[name].resize(1200, axis=0)
            events[name][:] = value if name != "text" else ""
        events["text"][0] = "x" * 3_000_000
        first = events["text"].id.read_direct_chunk((0,))[1][:16]
        for start in range(0, 1200, 64):
            stored = first * 64 + bytes(4 * events["text"].fletcher32)
            events["text"].id.write_direct_chunk((start,), stored)


def one_text_for_every_name(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["parameter"]
        names = file.create_dataset("parameter", data=["y" * 3_000_000] + [""] * 1199, dtype=h5py.string_dtype())
        place = names.id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(place)
        first = raw.read(16)
        raw.seek(place)
        raw.write(first * 1200)


def texts_that_were_never_written(path: Path) -> None:
    """A million events whose fill value is long."""
    with h5py.File(path, "r+") as file:
        del file["events/text"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((64,))
        kind = h5py.h5t.py_create(h5py.string_dtype(), logical=True)
        properties.set_fill_value(np.array("z" * 100_000, dtype=h5py.string_dtype()))
        space = h5py.h5s.create_simple((1_000_000,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(file["events"].id, b"text", kind, space, properties)


def more_texts_than_are_read(path: Path) -> None:
    """Every one of them empty, and there."""
    with h5py.File(path, "r+") as file:
        events = file["events"]
        for name in ("event", "step", "kind", "text"):
            events[name].resize(1_000_001, axis=0)
            events[name][:] = "" if name in ("kind", "text") else 0


def steps_of_terabytes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["step"].resize(1 << 37, axis=0)
        file.attrs["rows"] = 1 << 37


def steps_of_gigabytes_in_a_sparse_file(path: Path) -> None:
    """The file says of itself that it is long."""
    with h5py.File(path, "r+") as file:
        for item in file.values():
            if isinstance(item, h5py.Dataset) and item.maxshape[:1] == (None,):
                item.resize(1 << 30, axis=0)
        file.attrs["rows"] = 1 << 30
    os.truncate(path, 1 << 40)


def fewer_rows_than_none(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["rows"] = -1


def many_attributes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for number in range(20_000):
            file.attrs[f"a{number}"] = 0


def many_attributes_of_a_variable(path: Path) -> None:
    with h5py.File(path, "r+", libver="latest") as file:
        for number in range(2_000):
            file["loss"].attrs[f"a{number}"] = 0


def many_members(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for number in range(5_000):
            file.create_dataset(f"m{number}", (), "f4")


def many_metrics(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for number in range(5_000):
            file["epochs"][f"m{number}"] = file["epochs/epoch"]


def an_attribute_of_hundreds_of_megabytes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = '{"groups": [' + " " * 300_000_000 + "{}]}"


def attributes_that_share_a_long_text(path: Path) -> None:
    """An array of a hundred thousand texts in one attribute."""
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = np.full(100_000, "n" * 30, dtype=object)


def many_values_in_json(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["capture"] = json.dumps({"a": [{}] * 2_000_000})


def _nested(depth: int) -> str:
    return '{"groups": [{}], "a": ' + "[" * depth + "]" * depth + "}"


def deep_json(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = _nested(100_000)


def json_just_as_deep_as_it_can_be_read(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["capture"] = _nested(900)


def a_gigabyte_of_zeros() -> bytes:
    stream = isal_zlib.compressobj(1)
    return b"".join([stream.compress(bytes(1 << 20)) for _ in range(1 << 10)]) + stream.flush()


def a_chunk_that_inflates_to_gigabytes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        stored = a_gigabyte_of_zeros()
        file["loss"].id.write_direct_chunk((0,), stored, file["loss"].fletcher32 << 2)


def a_step_that_inflates_to_gigabytes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        stored = a_gigabyte_of_zeros()
        file["step"].id.write_direct_chunk((0,), stored, file["step"].fletcher32 << 2)


def events_that_inflate_to_gigabytes(path: Path) -> None:
    """HDF5 itself reads them."""
    with h5py.File(path, "r+") as file:
        events, rows = file["events"], len(file["events/event"])
        del events["step"]
        made = events.create_dataset("step", (rows,), "i8", chunks=(64,), maxshape=(None,), compression="gzip")
        made.id.write_direct_chunk((0,), a_gigabyte_of_zeros())


def events_that_were_never_written(path: Path) -> None:
    """As many as a file of that size could hold."""
    with h5py.File(path, "r+") as file:
        file["events/step"].resize(path.stat().st_size * 1000 // 8, axis=0)


def chunks_of_gigabytes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        rows = len(file["step"])
        file.create_dataset("extra", (rows,), "f4", chunks=(1 << 28,), maxshape=(None,), compression="gzip")[0] = 1


def a_wide_variable(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        rows = len(file["step"])
        file.create_dataset("extra", (rows, 1 << 28), "f4", chunks=(1, 1 << 20), maxshape=(None, 1 << 28))


def a_link_to_another_file(path: Path) -> None:
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["loss"] = np.full(150, 7.0)
    with h5py.File(path, "r+") as file:
        del file["loss"]
        file["loss"] = h5py.ExternalLink(str(other), "/loss")


def a_soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["again"] = h5py.SoftLink("/loss")


def a_virtual_variable(path: Path) -> None:
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["loss"] = np.full(150, 7.0, np.float32)
    with h5py.File(path, "r+") as file:
        rows = len(file["step"])
        del file["loss"]
        layout = h5py.VirtualLayout((rows,), "f4", maxshape=(None,))
        layout[:150] = h5py.VirtualSource(str(other), "loss", (150,))
        file.create_virtual_dataset("loss", layout)


def a_variable_stored_elsewhere(path: Path) -> None:
    other = path.with_name("secret.txt")
    other.write_text(SECRET * 100)
    with h5py.File(path, "r+") as file:
        del file["numel"]
        file.create_dataset("numel", (6,), "i8", external=[(str(other), 0, 48)])


def _in_the_index(path: Path, name: str, size: int) -> None:
    """Another stored size for the first chunk of a variable, in HDF5's index of its chunks."""
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
    key = struct.pack("<II", chunk.size, chunk.filter_mask) + bytes(8 * (len(chunk.chunk_offset) + 1))
    data = path.read_bytes()
    place = data.index(key + struct.pack("<Q", chunk.byte_offset))
    path.write_bytes(data[:place] + struct.pack("<I", size) + data[place + 4 :])


def a_chunk_of_no_bytes(path: Path) -> None:
    _in_the_index(path, "numel", 0)


def events_of_a_chunk_shorter_than_its_checksum(path: Path) -> None:
    _in_the_index(path, "events/step", 3)


def _with_heap_entry(path: Path, size: int) -> None:
    """The free space at the end of a heap of texts claims another size."""
    data = bytearray(path.read_bytes())
    heap = data.rindex(b"GCOL")
    place, end = heap + 16, heap + int.from_bytes(data[heap + 8 : heap + 16], "little")
    while place < end and data[place : place + 2] != b"\0\0":
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    data[place + 8 : place + 16] = size.to_bytes(8, "little")
    path.write_bytes(data)


def a_heap_whose_free_space_is_nothing(path: Path) -> None:
    """HDF5 looks for the entry after it at the same place, for ever."""
    _with_heap_entry(path, 0)


def a_heap_that_goes_backwards(path: Path) -> None:
    _with_heap_entry(path, (1 << 64) - 32)


def a_text_of_heaps(path: Path) -> None:
    """Every sixteenth byte of four megabytes begins a heap, each as long as the text."""
    size = 4 << 20
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "x" * size
        file.attrs["status"] = "odd"  # which is found out once all attributes are read
    data = bytearray(path.read_bytes())
    start = data.index(b"x" * 1000)
    data[start : start + size] = (b"GCOL\x01\0\0\0" + struct.pack("<Q", size - 4096)) * (size // 16)
    path.write_bytes(data)


def a_heap_longer_than_the_file(path: Path) -> None:
    data = bytearray(path.read_bytes())
    heap = data.rindex(b"GCOL")
    data[heap + 8 : heap + 16] = struct.pack("<Q", 8 << 20)
    path.write_bytes(data)


def _with_odd_flags(path: Path, name: str, kind: bytes, flags: int) -> None:
    """Flags that no HDF5 knows in the first type of this kind after the header of a variable."""
    with h5py.File(path, "r") as file:
        header = h5py.h5o.get_info(file[name].id).addr
    data = bytearray(path.read_bytes())
    data[data.index(kind, header) + 1] = flags
    path.write_bytes(data)


def texts_of_an_unknown_kind(path: Path) -> None:
    _with_odd_flags(path, "events/text", b"\x19\x01", 0xC3)


def a_list_of_dimensions_of_an_unknown_kind(path: Path) -> None:
    _with_odd_flags(path, "loss", b"\x19\x00\x00\x00\x10\x00\x00\x00", 2)


def events_of_different_lengths(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["events/step"].resize(1, axis=0)


def an_attribute_of_references(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["loss"].attrs["units"] = file["step"].ref


def a_list_of_dimensions_that_are_numbers(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["loss"].attrs["DIMENSION_LIST"]
        file["loss"].attrs["DIMENSION_LIST"] = np.zeros(1, np.int64)


RECORDS: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        one_text_many_times, one_text_for_every_name, texts_that_were_never_written, more_texts_than_are_read,
        steps_of_terabytes, steps_of_gigabytes_in_a_sparse_file, fewer_rows_than_none, many_attributes,
        many_attributes_of_a_variable, many_members,
        many_metrics, an_attribute_of_hundreds_of_megabytes, attributes_that_share_a_long_text, many_values_in_json,
        deep_json, json_just_as_deep_as_it_can_be_read, a_chunk_that_inflates_to_gigabytes,
        a_step_that_inflates_to_gigabytes, events_that_inflate_to_gigabytes, events_that_were_never_written,
        chunks_of_gigabytes, a_wide_variable, a_link_to_another_file, a_soft_link,
        a_virtual_variable, a_variable_stored_elsewhere, a_chunk_of_no_bytes,
        events_of_a_chunk_shorter_than_its_checksum, a_heap_whose_free_space_is_nothing, a_heap_that_goes_backwards,
        a_text_of_heaps, a_heap_longer_than_the_file,
        texts_of_an_unknown_kind, a_list_of_dimensions_of_an_unknown_kind,
        events_of_different_lengths, an_attribute_of_references, a_list_of_dimensions_that_are_numbers,
    )
}  # fmt: skip


# -- beside the record ----------------------------------------------------------------------------


def _log(path: Path) -> Path:
    return redo_log.beside(path)


def a_sparse_log(path: Path) -> None:
    """It claims a terabyte of pages, and holds none."""
    count = (1 << 40) // (redo_log.PAGE + 8)
    with _log(path).open("wb") as file:
        file.write(struct.pack("<8sQQQ16s", b"GSREDO1\n", 1, 1 << 50, count, bytes(16)))
        file.truncate(48 + count * (redo_log.PAGE + 8))


def a_log_for_a_long_file(path: Path) -> None:
    """A sound log, after which the record would be of a size that no disk has."""
    with _log(path).open("wb") as file:
        redo_log.write(file.fileno(), redo_log.Transaction(1, 1 << 60, {0: path.read_bytes()[:4096]}))


def a_pipe_for_a_log(path: Path) -> None:
    os.mkfifo(_log(path))


def a_pipe_for_a_lock(path: Path) -> None:
    os.mkfifo(path.with_name(path.name + ".lock"))


def a_link_for_a_log(path: Path) -> None:
    _log(path).symlink_to("/dev/zero")


def a_folder_for_a_log(path: Path) -> None:
    _log(path).mkdir()


def a_pipe_for_a_record(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_device_for_a_record(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


BESIDE: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        a_sparse_log, a_log_for_a_long_file, a_pipe_for_a_log, a_pipe_for_a_lock, a_link_for_a_log,
        a_folder_for_a_log, a_pipe_for_a_record, a_device_for_a_record,
    )
}  # fmt: skip
#: These stand beside a sound record, which can be read as if they were not there.
HARMLESS = ("a_sparse_log", "a_log_for_a_long_file", "a_pipe_for_a_lock")


def an_outward_link_under_a_log(path: Path, crashed: Crashed) -> None:
    """What a log says is looked at, too, before anything is followed."""
    path.write_bytes(crashed[0])
    _log(path).write_bytes(crashed[1])
    redo_log.redo(path)
    a_link_to_another_file(path)
    with _log(path).open("wb") as file:
        redo_log.write(file.fileno(), redo_log.Transaction(1, path.stat().st_size, {0: path.read_bytes()[:4096]}))
