"""Damaged and hostile files through every command that reads records: one clear line, nothing worse."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from tests.torture import hurt

LIMIT_SECONDS = 20
LIMIT_BYTES = 1 << 30  # above what the worker has when it begins


#: What no command may do: fall, end the process, take too long or too much, say more or less than one clear line.
WRONG = ("traceback", "crash", "slow", "large", "unclear")


@dataclass
class Finding:
    """What one command said to one file."""

    kind: str
    seed: int
    command: str
    outcome: str  # ok, refused, or what went wrong
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.outcome not in ("ok", "refused")


def flip_bits(data: bytearray, source: random.Random) -> None:
    for _ in range(source.choice((1, 3, 10, 100, 1000))):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def flip_early_bits(data: bytearray, source: random.Random) -> None:
    """In the first kilobytes, where HDF5 keeps what the rest hangs on."""
    for _ in range(source.choice((1, 2, 5, 20))):
        data[source.randrange(min(len(data), source.choice((96, 800, 8000))))] ^= 1 << source.randrange(8)


def cut_off(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(len(data)) :]


def overwrite(data: bytearray, source: random.Random) -> None:
    """A stretch of garbage or of zeros."""
    length = source.choice((16, 512, 4096, 20000))
    start = source.randrange(len(data))
    stop = min(len(data), start + length)
    data[start:stop] = source.randbytes(stop - start) if source.random() < 0.5 else bytes(stop - start)


def shuffle_pages(data: bytearray, source: random.Random) -> None:
    a, b = (4096 * source.randrange(max(1, len(data) // 4096)) for _ in range(2))
    data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]


def large_numbers(data: bytearray, source: random.Random) -> None:
    """Sizes and addresses become huge, or all ones."""
    for _ in range(source.choice((1, 4))):
        at = 8 * source.randrange(len(data) // 8)
        data[at : at + 8] = source.choice((b"\xff" * 8, (1 << 40).to_bytes(8, "little"), source.randbytes(8)))


#: How HDF5's own structures begin; what damage in them leads to, chance alone finds too seldom.
STRUCTURES = re.compile(rb"GCOL|HEAP|TREE|SNOD|OHDR|OCHK|FRHP|FHDB|FHIB|FSHD|FSSE|BTHD|BTIN|BTLF|EAHD|EAIB|FAHD|FADB")


def within_structures(data: bytearray, source: random.Random) -> None:
    """Bytes, bits, sizes and addresses (to itself, to nowhere, zero) in HDF5's own structures."""
    places = [found.start() for found in STRUCTURES.finditer(data)]
    for _ in range(source.choice((1, 1, 2))):
        place = source.choice(places)
        span = source.choice((32, 64, 128, 600))
        at = min(place + 4 + source.randrange(span), len(data) - 8)
        field = min(place + 8 * (1 + source.randrange(span // 8)), len(data) - 8)
        kind = source.randrange(4)
        if kind == 0:
            data[at] = source.choice((0, 1, 255, source.randrange(256)))
        elif kind == 1:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 2:
            number = source.choice((place, place + 8, field, 8, 16, 24, 1 << 32, (1 << 64) - 1, (1 << 64) - 16))
            data[field : field + 8] = number.to_bytes(8, "little")
        else:
            data[field : field + 8] = bytes(8)


BYTES: dict[str, Callable[[bytearray, random.Random], None]] = {
    f.__name__: f
    for f in (flip_bits, flip_early_bits, cut_off, overwrite, shuffle_pages, large_numbers, within_structures)
}


def of_wrong_types(file: h5py.File, source: random.Random) -> None:
    name = source.choice([n for n in file if isinstance(file[n], h5py.Dataset)])
    shape = file[name].shape
    del file[name]
    kind = source.choice(("S5", "c8", "f8", "i1", "group", "scalar", "compound", "bool", "text"))
    if kind == "group":
        file.create_group(name)
    elif kind == "scalar":
        file[name] = 1.0
    elif kind == "compound":
        file[name] = np.zeros(shape, dtype=[("a", "f4"), ("b", "i4")])
    elif kind == "text":
        file.create_dataset(name, shape, h5py.string_dtype())
    else:
        file[name] = np.zeros(shape, dtype=kind)


def with_wrong_attributes(file: h5py.File, source: random.Random) -> None:
    name = source.choice([*file.attrs])
    wrong = source.choice(
        (None, -1, 1 << 60, float("nan"), "", "{", "[" * 100000, "{}", b"\xff\xfe", np.zeros(5), "[]")
    )
    del file.attrs[name]
    if wrong is not None:
        file.attrs[name] = wrong


def without_something(file: h5py.File, source: random.Random) -> None:
    if source.random() < 0.5:
        del file[source.choice([*file])]
    else:
        group = file[source.choice(("events", "epochs"))]
        del group[source.choice([*group])]


def of_hostile_size(file: h5py.File, source: random.Random) -> None:
    """Billions of rows or columns that were never written, or chunks of gigabytes."""
    name = source.choice(("step", "weight_norm", "parameter", "numel", "events/text", "extra", "config"))
    size = source.choice((1 << 31, 1 << 40, 1 << 50))
    if name == "config":
        file.attrs["rows"] = size
        return
    dtype = file[name].dtype if name in file and file[name].dtype.kind != "O" else h5py.string_dtype()
    if name in file:
        del file[name]
    shape = (10, size) if name == "weight_norm" and source.random() < 0.5 else (size,)
    chunk = tuple(min(n, source.choice((1024, 1 << 20, 1 << 28))) for n in shape)
    with contextlib.suppress(ValueError, OSError):
        file.create_dataset(name, shape, dtype, chunks=chunk, maxshape=(None, *shape[1:]))


def with_odd_links(file: h5py.File, source: random.Random) -> None:
    name = source.choice(("loss", "step", "events", "epochs/epoch", "new", "parameter"))
    if name in file:
        del file[name]
    kind = source.choice(("self", "loop", "external", "dangling", "hard loop"))
    if kind == "self":
        file[name] = h5py.SoftLink("/" + name)
    elif kind == "loop":
        file[name] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/" + name)
    elif kind == "external":
        file[name] = h5py.ExternalLink("/etc/passwd", "/")
    elif kind == "dangling":
        file[name] = h5py.SoftLink("/nowhere")
    else:
        file[name] = file["/"]


def with_a_bomb(file: h5py.File, source: random.Random) -> None:
    """Zeros compress a thousandfold."""
    file.create_dataset("bomb", (1 << 28,), "f4", chunks=(1 << 24,), compression="gzip", maxshape=(None,))
    file["bomb"][: 1 << 24] = 0


def foreign(path: Path, source: random.Random) -> None:
    """HDF5 of somebody else, and what is not HDF5."""
    kind = source.randrange(5)
    if kind == 0:
        with h5py.File(path, "w") as file:
            file["image"] = np.zeros((4, 4))
    elif kind == 1:
        with h5py.File(path, "w", libver="latest", userblock_size=512) as file:
            file.attrs["schema_version"] = 1
    else:
        path.write_bytes((b"", b"\x89HDF\r\n\x1a\n", source.randbytes(5000))[kind - 2])


HDF5: dict[str, Callable[[h5py.File, random.Random], None]] = {
    f.__name__: f
    for f in (of_wrong_types, with_wrong_attributes, without_something, of_hostile_size, with_odd_links, with_a_bomb)
}
MUTATED = (*BYTES, *HDF5, "foreign", "log_garbage", "log_bits")
HURT = (*hurt.RECORDS, *hurt.BESIDE)


def make(path: Path, seed: int, good: Path, crashed: tuple[bytes, bytes]) -> str:
    """The fuzzed file of this seed; its kind. ``crashed``: a record with its log. Below 0: one made to hurt."""
    source = random.Random(seed)
    kind = MUTATED[seed % len(MUTATED)] if seed >= 0 else HURT[-seed - 1]
    log = path.with_name(path.name + ".log")
    for left in path.parent.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    if kind in hurt.RECORDS or kind in hurt.BESIDE:
        path.write_bytes(good.read_bytes())
        {**hurt.RECORDS, **hurt.BESIDE}[kind](path)
    elif kind == "foreign":
        foreign(path, source)
    elif kind.startswith("log"):
        path.write_bytes(crashed[0])
        content = bytearray(crashed[1])
        (overwrite if kind == "log_garbage" else flip_bits)(content, source)
        log.write_bytes(content)
    elif kind in BYTES:
        data = bytearray(good.read_bytes())
        BYTES[kind](data, source)
        path.write_bytes(data)
    else:
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            HDF5[kind](file, source)
    return kind


#: Every command that reads records.
COMMANDS = ("inspect", "diagnose", "tolerance", "plot", "recover", "export", "compare", "report", "watch")


def options_of(folder: Path, good: Path) -> dict[str, list[str]]:
    """What each command has to be given after the path. ``good``: a sound record."""
    return {
        "inspect": [], "diagnose": ["--json"], "tolerance": [],
        "plot": ["--figure", "loss", "-o", str(folder / "plot.png")],
        "recover": ["-o", str(folder / "saved.h5"), "--json"],
        "export": ["--to", "csv", "-o", str(folder / "out.csv"), "--force"],
        "compare": [str(good)], "report": ["-o", str(folder / "page.html")], "watch": ["--once"],
    }  # fmt: skip


def judge(path: Path, command: str, options: list[str]) -> tuple[str, str]:
    """Run one command in this process: (outcome, detail)."""
    from gradscope_cli.main import run

    for left in path.parent.glob("saved*"):
        left.unlink()
    out, err = io.StringIO(), io.StringIO()
    began = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run([command, str(path), *options])
        except BaseException as error:
            return "traceback", f"{type(error).__name__}: {error}"
    said = err.getvalue().strip().splitlines()
    if time.monotonic() - began > LIMIT_SECONDS:
        return "slow", f"{time.monotonic() - began:.0f} s"
    if code == 2:
        if len(said) != 1 or re.search(r"unexpected|report it|Traceback", said[0]):
            return "unclear", " / ".join(said)[:300]
        return "refused", said[0][:200]
    if code not in (0, 3) or any("Traceback" in line for line in said):
        return "unclear", f"exit code {code}: " + " / ".join(said)[:300]
    if "--json" in options:
        json.loads(out.getvalue())
    return "ok", ""


def _kilobytes(name: str) -> int:
    """A line of this process's status: what it holds (``VmRSS``), or held at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def worker(
    seeds: list[int], good: Path, crashed: tuple[bytes, bytes], report: int, commands: Sequence[str], memory: int
) -> None:
    """Fuzz these seeds in this process and tell each step to a pipe, so that a crash can be placed."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "r.h5"
        for seed in seeds:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            kind = make(path, seed, good, crashed)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            # The machine is spared more than twice what is allowed; within that, what was taken is measured.
            resource.setrlimit(resource.RLIMIT_AS, (used + 2 * memory + (1 << 30), resource.RLIM_INFINITY))
            for command in commands:
                os.write(report, f"{json.dumps(['begin', kind, seed, command])}\n".encode())
                signal.alarm(3 * LIMIT_SECONDS)
                Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
                before = _kilobytes("VmRSS")
                outcome = judge(path, command, options_of(folder, good)[command])
                if (taken := (_kilobytes("VmHWM") - before) << 10) > memory:
                    outcome = "large", f"{taken >> 20} MB; {outcome[0]}: {outcome[1]}"
                signal.alarm(0)
                os.write(report, f"{json.dumps(['end', kind, seed, command, *outcome])}\n".encode())


def campaign(
    seeds: list[int],
    good: Path,
    crashed: tuple[bytes, bytes],
    commands: Sequence[str] = COMMANDS,
    memory: int = LIMIT_BYTES,
) -> list[Finding]:
    """All seeds, in a child that is replaced by another where it dies."""
    found: list[Finding] = []
    left = list(seeds)
    while left:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                worker(left, good, crashed, writing, commands, memory)
            finally:
                os._exit(0)
        os.close(writing)
        last: list[str] = []
        with os.fdopen(reading) as lines:
            for line in lines:
                last = json.loads(line)
                if last[0] == "end":
                    found.append(Finding(*last[1:]))
        _, status = os.waitpid(child, 0)
        if last and last[0] == "begin":
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
            found.append(Finding(last[1], last[2], last[3], "crash", how))
        done = last[2] if last else left[-1]
        left = left[left.index(done) + 1 :]
    return found
