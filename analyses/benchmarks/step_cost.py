"""What a recording adds to the training thread's own time, beside another version of the code.

Every way of watching is a process of its own, for two versions of one package do not fit into one. The parent lets
one of them run at a time, a block of steps each, in an order that changes from round to round, and each answers
with its processor time (`time.thread_time`) of the training thread, which other programs on the machine disturb
less than they do a wall clock. A figure is the median over rounds of (time of this way)/(bare time in the same round);
"bare again" is the bare loop once more. ``low_us``: the lowest decile of a way's own times, which programs beside
it disturb least of all: that of one version over that of another tells small differences. What the background thread
does is not in it: see `overhead` for wall clocks.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # an older version of the package, which a child imports, has no such modules
    from analyses.common.results import Cell, Row
    from analyses.common.study import Options

ROOT = Path(__file__).parents[2]
ROUNDS = 60
PRESETS = ("cheap", "standard", "full")


def mlp() -> tuple[Any, Any, Any]:
    """Eight layers of 128 on the digits, a step of 1.5 ms."""
    import torch
    from torch import nn

    hidden = [layer for _ in range(7) for layer in (nn.Linear(128, 128), nn.ReLU())]
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), *hidden, nn.Linear(128, 10))
    return model, torch.randn(64, 64), torch.randint(0, 10, (64,))


def transformer() -> tuple[Any, Any, Any]:
    """Twelve blocks of width 64 with all their 148 tensors, a step of 26 ms."""
    import torch
    from torch import nn

    block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(
        nn.Embedding(65, 64), nn.TransformerEncoder(block, 12, enable_nested_tensor=False), nn.Linear(64, 65)
    )
    return model, torch.randint(0, 65, (4, 32)), torch.randint(0, 65, (4, 32))


def small() -> tuple[Any, Any, Any]:
    """Five layers of 32, ten tensors: a step of half a millisecond, in which every call shows."""
    import torch
    from torch import nn

    hidden = [layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(32, 10)), torch.randn(16, 32), torch.randint(0, 10, (16,))


def many() -> tuple[Any, Any, Any]:
    """150 layers of 16, 300 tensors: what a tensor costs."""
    import torch
    from torch import nn

    hidden = [layer for _ in range(149) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(16, 10)), torch.randn(8, 16), torch.randint(0, 10, (8,))


def lstm() -> tuple[Any, Any, Any]:
    """An LSTM of two layers over 32 characters."""
    import torch
    from torch import nn

    class Characters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters, self.rnn, self.head = nn.Embedding(65, 64), nn.LSTM(64, 128, 2), nn.Linear(128, 65)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.rnn(self.letters(x))[0])
            return out

    return Characters(), torch.randint(0, 65, (32, 16)), torch.randint(0, 65, (32, 16))


def resnet() -> tuple[Any, Any, Any]:
    """ResNet-18 on 16 images of 32 pixels."""
    import torch
    import torchvision

    model = torchvision.models.resnet18(num_classes=10)
    return model, torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))


@dataclass(frozen=True)
class Net:
    """A net with its batch, and how many steps make a block: in which every preset samples equally often."""

    make: Callable[[], tuple[Any, Any, Any]]
    steps: int


NETS = {
    "MLP": Net(mlp, 40),
    "transformer": Net(transformer, 40),
    "10 tensors": Net(small, 40),
    "300 tensors": Net(many, 40),
    "LSTM": Net(lstm, 40),
    "ResNet-18": Net(resnet, 40),
}


def child(net: str, way: str) -> None:
    """Train under one way of watching, as many steps as each line of standard input says."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x, y = NETS[net].make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    with contextlib.ExitStack() as stack:
        run: Any = None
        if way in PRESETS:
            import gradscope

            folder = stack.enter_context(tempfile.TemporaryDirectory())
            path = Path(folder) / "run.h5"
            run = stack.enter_context(gradscope.record(model, optimizer, path, preset=way, on_failure="ignore"))

        def step() -> None:
            out = model(x)
            loss = torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if run is not None:
                run.log(loss=loss)

        for line in sys.stdin:
            start = time.thread_time()
            for _ in range(int(line)):
                step()
            print(time.thread_time() - start, flush=True)


class Way:
    """The parent's end of one child."""

    def __init__(self, net: str, way: str, root: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        # The script by its path: this file also measures versions that are older than it.
        command = [sys.executable, str(Path(__file__)), net, way]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )

    def run(self, steps: int) -> float:
        """Seconds a step."""
        tell, hear = self._process.stdin, self._process.stdout
        assert tell is not None and hear is not None
        tell.write(f"{steps}\n")
        tell.flush()
        return float(hear.readline()) / steps

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(net: str, ways: dict[str, tuple[str, Path]], rounds: int) -> dict[str, list[float]]:
    """Seconds a step in each round, by way. ``ways``: the way and the checkout, by name."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    with contextlib.ExitStack() as stack:
        children = {}
        for name, (way, root) in ways.items():
            children[name] = Way(net, way, root)
            stack.callback(children[name].close)
        steps = NETS[net].steps
        for one in children.values():
            one.run(max(104, 2 * steps))  # warm, and past the first hundred, in which more is recorded
        for _ in range(rounds):
            for name in order.sample(list(ways), len(ways)):
                found[name].append(children[name].run(steps))
    return found


def lines(found: dict[str, list[float]]) -> list[Row]:
    """A line a way."""
    told: list[Row] = []
    for name, times in found.items():
        ratios = [t / b for t, b in zip(times, found["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        more = statistics.median(t - b for t, b in zip(times, found["bare"], strict=True)) * 1e6
        bare = statistics.median(found["bare"]) * 1e3
        low_us = statistics.quantiles(times, n=10)[0] * 1e6
        told.append(
            {
                "way": name, "ratio": round(middle, 4), "lower_quartile": round(low, 4),
                "upper_quartile": round(high, 4), "more_us": round(more, 1), "bare_ms": round(bare, 3),
                "low_us": round(low_us, 1),
                "rounds": len(times),
            }
        )  # fmt: skip
    return told


def cells(asked: Options) -> list[Cell]:
    """A net each, as far as it is asked for."""
    wanted = asked.more["nets"]
    return [{"net": net} for net in NETS if not wanted or any(part in net for part in wanted)]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """The presets, and those of another checkout beside them."""
    ways = {"bare": ("bare", ROOT), "bare again": ("bare", ROOT)}
    for preset in asked.more["presets"]:
        ways[preset] = preset, ROOT
        if asked.more["beside"]:
            ways[f"{preset}, beside"] = preset, asked.more["beside"].resolve()
    found = lines(measure(cell["net"], ways, asked.more["rounds"] or ROUNDS))
    for line in found:
        print(
            f"{cell['net']:12} {line['way']:20} {line['ratio']:7.3f} [{line['lower_quartile']:.3f}, "
            f"{line['upper_quartile']:.3f}] {line['more_us']:+8.0f} us  ({line['bare_ms']:.2f} ms bare) "
            f"low {line['low_us']:.1f} us",
            flush=True,
        )
    return found


if __name__ == "__main__":
    child(*sys.argv[1:])
