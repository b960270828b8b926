"""Power loss: what was not synced reaches the disk in any part and order, in sectors of 512 bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR = 512


@dataclass
class Trace:
    """Everything a life did to the disk, in order: (what, path, …), and the rows it was promised."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)
    descriptors: dict[int, str] = field(default_factory=dict)

    def watch(self, patch: Any) -> None:
        """Record from now on; ``patch`` is a pytest MonkeyPatch."""
        for name in ("pwritev", "ftruncate", "posix_fallocate", "fdatasync", "fsync"):
            patch.setattr(os, name, self._noting(name, getattr(os, name)))
        opened, unlinked = os.open, os.unlink

        def noting_open(path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
            descriptor = opened(path, flags, mode, **named)
            self.descriptors[descriptor] = str(path)
            if flags & os.O_CREAT:
                self.operations.append(("create", str(path)))
            return descriptor

        def noting_unlink(path: Any, **named: Any) -> None:
            self.operations.append(("unlink", str(path)))
            unlinked(path, **named)

        patch.setattr(os, "open", noting_open)
        patch.setattr(os, "unlink", noting_unlink)

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(descriptor: int, *arguments: Any) -> Any:
            path = self.descriptors.get(descriptor, "")
            if name == "pwritev":
                self.operations.append(("write", path, b"".join(bytes(v) for v in arguments[0]), arguments[1]))
            elif name == "posix_fallocate":
                self.operations.append(("grow", path, arguments[0] + arguments[1]))
            elif name == "ftruncate":
                self.operations.append(("cut", path, arguments[0]))
            else:
                self.operations.append(("sync", path))
            return call(descriptor, *arguments)

        return noting

    def published(self, rows: int) -> None:
        self.operations.append(("published", "", rows))


def crash(trace: Trace, record: Path, folder: Path, random_source: random.Random) -> tuple[Path, int]:
    """The disk after a power loss at a random moment: the record (with its log) in ``folder``, the rows promised."""
    first = next(i for i, o in enumerate(trace.operations) if o[0] == "published")
    moment = random_source.randrange(first + 1, len(trace.operations) + 1)
    durable: dict[str, bytearray] = {}
    waiting: dict[str, list[tuple[Any, ...]]] = {}
    created: set[str] = set()
    rows = 0
    for operation in trace.operations[:moment]:
        what, path = operation[0], operation[1]
        if what == "published":
            rows = operation[2]
        elif what == "create":
            created.add(path)
        elif what == "sync":
            for name in created:  # a synced folder knows its files, however little of them is on the disk
                if str(Path(name).parent) == path:
                    durable.setdefault(name, bytearray())
            for earlier in waiting.pop(path, []):
                _do(durable.setdefault(path, bytearray()), earlier)
        elif what == "unlink":
            waiting.pop(path, None)
            durable.pop(path, None)
            created.discard(path)
        else:
            waiting.setdefault(path, []).append(operation)
    for path, operations in waiting.items():
        share = random_source.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for operation in operations:
            for part in _sectors(operation):
                if random_source.random() < share:
                    _do(durable.setdefault(path, bytearray()), part)
    for path, content in durable.items():
        if path.endswith((".h5", ".h5.log")):
            (folder / Path(path).name).write_bytes(content)
    return folder / record.name, rows


def _sectors(operation: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if operation[0] != "write":
        return [operation]
    _, path, data, offset = operation
    return [("write", path, data[i : i + SECTOR], offset + i) for i in range(0, len(data), SECTOR)]


def _do(content: bytearray, operation: tuple[Any, ...]) -> None:
    what = operation[0]
    if what == "write":
        _, _, data, offset = operation
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
    elif what == "grow":
        content.extend(bytes(max(0, operation[2] - len(content))))
    elif what == "cut":
        del content[operation[2] :]
        content.extend(bytes(operation[2] - len(content)))
