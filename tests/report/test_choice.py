"""Keys of the live view that choose a layer or a block, whose lines then stand in front."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gradscope.report.live.choice import chosen, ordered
from gradscope.report.live.follower import run_now
from gradscope.report.live.frame import Frame
from gradscope.report.live.keys import Keys
from gradscope.report.live.terminal import _scrolled, drawn
from tests.helpers.handmade import handmade
from tests.helpers.terminals import WATCH, Terminal, training


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Frame:
    return run_now(handmade(tmp_path_factory.mktemp("choice") / "run.h5", 6, 2000))


def test_layers_that_the_verdict_names_come_first_and_none_is_left_out(shown: Frame) -> None:
    found = shown.run.diagnosis
    names = ordered(shown)
    assert names[: len(found.layers)] == found.layers != []
    later = [name for one in found.findings for name in one.layers if name not in found.layers]  # modules, too
    following = list(dict.fromkeys(p for name in later for p in names if p == name or p.startswith(f"{name}.")))
    following = [name for name in following if name not in found.layers]
    assert names[len(found.layers) :][: len(following)] == following
    assert sorted(names) == sorted(shown.run.parameters)
    less = replace(shown, run=replace(shown.run, layers_total=40))
    assert chosen(less, 1, False).title.endswith("(34 more are not in this view)")  # type: ignore[union-attr]


def test_the_lines_of_a_layer_are_its_own_and_places_go_round(shown: Frame) -> None:
    names = ordered(shown)
    assert chosen(shown, 0, False) is None
    for place in (2, 2 + len(names) + 1, 2 - len(names) - 1):
        found = chosen(shown, place, False)
        assert found is not None
        assert found.title == f"layer 2 of {len(names)}: {names[1]}"
        gradient = shown.run.quantities["gradient"]
        values = gradient.envelope.mean[:, gradient.names.index(names[1])]
        line = next(line for line in found.lines if line.name == "|∂L/∂w|")
        np.testing.assert_allclose(line.values, values, rtol=1e-6)
        assert line.last == pytest.approx(float(values[-1]))
    last = chosen(shown, -1, False)
    assert last is not None
    assert last.title == f"layer {len(names)} of {len(names)}: {names[-1]}"


def test_the_line_of_a_block_is_the_mean_over_its_entries(shown: Frame) -> None:
    labels, of = shown.run.blocks
    found = chosen(shown, 1, True)
    assert found is not None
    members = [i for i, block in enumerate(of) if block == 0]
    assert found.title == f"block 1 of {len(labels)}: {labels[0]}, 1 tensor"
    weight = shown.run.quantities["weight"].envelope.mean[:, members]
    expected = weight @ shown.run.numel[members] / shown.run.numel[members].sum()
    line = next(line for line in found.lines if line.name == "|w|")
    np.testing.assert_allclose(line.values, expected, rtol=1e-5)


@pytest.mark.parametrize("width", [30, 60, 100])
def test_it_stands_before_the_network_and_the_keys_are_named(shown: Frame, width: int) -> None:
    out, keys = StringIO(), Keys()
    console = Console(file=out, width=width, height=50, highlight=False)
    keys.press(b"n\x1b[Cp")
    assert keys.place == 1
    keys._before = []  # as in a terminal
    console.print(_scrolled(console, drawn(shown, width, chosen(shown, keys.place, keys.by_block)), keys))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    front = next(k for k, line in enumerate(lines) if line.startswith("layer 1 of 6"))
    assert front < 8
    assert width < 60 or front < lines.index("the whole network")
    assert "b blocks" in lines[-1]
    assert len(lines) <= 49


def test_keys_that_choose() -> None:
    keys = Keys()
    keys.press(b"NNPnn\x1b[D")
    assert (keys.place, keys.by_block) == (11, False)
    keys.press(b"jjj")
    assert keys.top == 3
    keys.press(b"b")
    assert (keys.place, keys.by_block, keys.top) == (1, True, 0)
    keys.press(b"0")
    assert keys.place == 0


@pytest.mark.thorough
def test_choosing_in_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with training(path) as child:
        terminal = Terminal([*WATCH, str(path)], 100, NO_COLOR="1")
        terminal.until(r"n p next, previous layer")
        assert "layer 1 of" not in terminal.text
        terminal.send("n")
        terminal.until(r"layer 1 of 4: ")
        terminal.send("\x1b[C")
        terminal.until(r"layer 2 of 4: ")
        terminal.send("b")
        terminal.until(r"block 1 of 2: .*, 2 tensors")
        terminal.text = ""
        terminal.send("0")
        terminal.until(r"n p next")
        terminal.text = ""
        terminal.until(r"n p next")
        assert not re.search(r"(layer|block) \d of", terminal.text)
        terminal.child.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert child.poll() is None
