"""Buffer of rows between a training and their consumers: rings on the devices, the host's part beside them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradscope.recorder.consumer import RowConsumer
from gradscope.recorder.distributed import GATHERED_ROWS, Ranks
from gradscope.recorder.fields import Field
from gradscope.recorder.flusher import Flusher
from gradscope.recorder.host_rows import Block, FetchedRows, Fields, HostRow
from gradscope.recorder.ring import Ring


@dataclass(frozen=True)
class Layout:
    """What one row holds, and what follows from it.

    Attributes:
        home: the first device.
        common: fields of no meter, on ``home``.
        devices: of each meter, by its number.
        of_meter: the fields of each meter, on its device.
        variables: called one after the other with fetched rows; each returns variables of the record.
    """

    home: torch.device
    common: Mapping[str, Field]
    devices: Mapping[int, torch.device]
    of_meter: Mapping[int, Mapping[str, Field]]
    variables: Sequence[Callable[[FetchedRows], Block]]

    def by_device(self) -> dict[torch.device, dict[str, Field]]:
        """Return the fields of each ring."""
        found = {self.home: dict(self.common)}
        for number, fields in self.of_meter.items():
            found.setdefault(self.devices[number], {}).update(fields)
        return found


class RowBuffer:
    """Rings by device, and a flusher that hands blocks of finished rows to each of the ``consumers``.

    Attributes:
        rings: by device.
        home: that of the first one, which holds the fields of no meter.
        extra: rings beside ``home``, for fields that nobody knew of before.
        number: the place of the row to come, counted since the layout.
        hosts: rows begun and not yet taken by the flusher.
        paused: the flusher has to leave the devices alone, for a CUDA graph is being captured.
        together: all ranks come to the end of the recording.
        stopped: nothing is recorded any more.
        error: what has ended the flusher.
    """

    def __init__(self, ranks: Ranks, consumers: Sequence[RowConsumer]) -> None:
        self.ranks, self.consumers = ranks, consumers
        self.rings: dict[torch.device, Ring] = {}
        self.extra: list[Ring] = []
        self.hosts: list[HostRow] = []
        self.number = self._finished = self._fetched = 0
        self.together, self.stopped, self.paused = True, False, False
        self.error: Exception | None = None
        self._whole = False  # hand out a last block that is shorter than the others
        self._flusher: Flusher | None = None

    def lay_out(self, layout: Layout) -> None:
        """Create new rings; what the old ones hold has been fetched, or is lost."""
        self.layout = layout
        self.rings = {device: Ring(device, fields) for device, fields in layout.by_device().items()}
        self.home = self.rings[layout.home]
        self.extra = []
        self.number = self._finished = self._fetched = 0
        #: Whether fetching rows means waiting for a device.
        self.on_accelerator = any(device.type != "cpu" for device in self.rings)
        self.on_cuda = any(device.type == "cuda" for device in self.rings)
        self._capacity = min(ring.rows for ring in self.rings.values()) - 2  # the open row, and the one to come

    @property
    def bytes(self) -> int:
        """Device memory that the rings take; it does not grow with the number of steps."""
        return sum(ring.bytes for ring in self.rings.values())

    # -- the training thread ----------------------------------------------------------------------

    def add(self, row: HostRow) -> None:
        """Add a row that has begun; those before it are finished (`finish`), so that there is a place for it."""
        self.hosts.append(row)
        self.number += 1
        for ring in self.rings.values():
            ring.mark()

    def finish(self) -> None:
        """Mark all rows so far as finished; where there is no place for another one, wait for the flusher."""
        self._finished = self.number
        if self.number - self._fetched >= self._capacity:
            self.wait()

    def start(self) -> None:
        """Begin to hand rows out."""
        self._flusher = Flusher(self._flush)
        _FORKED.add(self)

    def fetch(self, whole: bool = False) -> None:
        """Wait until all finished rows have reached the consumers; ``whole``: also fewer than ranks gather at once."""
        self._whole = whole
        self.wait()
        self._whole = False

    def wait(self) -> None:
        """Wait until the flusher has answered. An error of its own stops the recording."""
        if self._flusher is not None:
            try:
                self._flusher.wait()
            except Exception as error:  # of ours; whoever trains has no part in it
                self.error, self.stopped = error, True

    def kick(self) -> None:
        """Ask for the finished rows to be fetched soon."""
        if self._flusher is not None:
            self._flusher.kick()

    def check(self) -> Exception | None:
        """Return the error that has ended the flusher, if one has; nothing is recorded after it."""
        if self._flusher is not None and self._flusher.ended:
            self.stopped = True
            try:
                self._flusher.check()
            except Exception as error:
                self.error = error
        return self.error

    def stop(self) -> None:
        """Hand out the rest and end the flusher."""
        self.finish()
        self._whole = self.together
        if self._flusher is not None:
            self._flusher.stop()
        self.stopped = True

    # -- the flusher's thread ---------------------------------------------------------------------

    def _flush(self) -> None:
        """Fetch the finished rows and hand them on."""
        if self.paused:  # a capture does not bear another thread's use of the device
            return
        whole = self._whole  # read before the count of rows that it speaks of
        while (n := self._finished - self._fetched) > 0:
            if self.ranks.sharded and n < GATHERED_ROWS and not (whole and self.ranks.same_everywhere(n)):
                break
            self._hand_out(self._fetched + (min(n, GATHERED_ROWS) if self.ranks.sharded else n))
        for consumer in self.consumers:
            consumer.tick()

    def _hand_out(self, stop: int) -> None:
        first = self._fetched
        hosts = self.hosts[: stop - first]
        tables = {device: ring.read(first, stop) for device, ring in self.rings.items()}
        extra = list(self.extra)
        for ring in extra:
            tables[self.home.device] |= ring.read(first, stop)
        if self.ranks.sharded:
            fields = {device: dict(ring.fields) for device, ring in self.rings.items()}
            for ring in extra:
                fields[self.home.device] |= ring.fields
            self.ranks.whole(tables, fields)
        if self.ranks.measures:
            block = self._block(hosts, tables)
            for consumer in self.consumers:
                consumer.append(block)
        del self.hosts[: stop - first]
        self._fetched = stop

    def _block(self, hosts: Sequence[HostRow], tables: Mapping[torch.device, Fields]) -> Block:
        """Return the rows as variables of the schema, [n, …] each."""
        rows = FetchedRows(hosts, tables, tables[self.home.device])
        rows.block |= {
            "step": np.array([row.step for row in hosts], dtype=np.int64),
            "epoch": np.array([row.epoch for row in hosts], dtype=np.int32),
            "time": np.array([row.time for row in hosts], dtype=np.float64),
        }
        for variables in self.layout.variables:
            rows.block |= variables(rows)
        return rows.block


_FORKED: weakref.WeakSet[RowBuffer] = weakref.WeakSet()


def _stop_in_child() -> None:
    """Stop in a forked process (a DataLoader's worker), which has the hooks, but no thread and no right to the file."""
    for buffer in list(_FORKED):
        buffer.stopped = True


os.register_at_fork(after_in_child=_stop_in_child)
