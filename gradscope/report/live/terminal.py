"""Draw a frame with rich, for any width; show a run until it ends, scrolled where it is longer than a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gradscope.card import plain
from gradscope.quantities import GRADIENT, PROPORTION, WEIGHT
from gradscope.report.live.choice import Chosen, chosen, ordered
from gradscope.report.live.follower import Follower
from gradscope.report.live.frame import Frame, Line, frame
from gradscope.report.live.keys import Keys
from gradscope.report.sparkline import sparkline
from gradscope.store.interrupts import held_back

#: Seconds between two looks.
LOOK = 0.5
#: Without a terminal: a line at each change of the verdict, and at this many rows, twice as many, and so on.
TOLD_ROWS = 1000
TONES = {"healthy": "green", "undecided": "yellow"}
NARROW = 60


def drawn(shown: Frame, width: int, front: Chosen | None = None) -> RenderableType:
    """Draw a frame in lines of at most ``width`` characters; words of the record lose their control characters.

    Args:
        shown: the frame.
        width: of the terminal.
        front: the layer or block whose lines stand before those of the network.

    Returns:
        Something that rich prints.
    """
    tone = TONES.get(shown.verdict, "red")
    verdict = Text.assemble(
        (shown.verdict.upper(), f"bold {tone}"),
        f"  probability of failure {100 * shown.probability_failed:.0f} %",
    )
    parts: list[RenderableType] = [Text(plain(shown.head), style="bold"), verdict]
    if front is not None:
        parts += [Text(), Text(plain(front.title), style="bold"), _lines(front.lines, width), Text()]
    parts += [Text(plain(shown.sentence))]
    parts += [Text(plain(f"rule: {finding}"), style="yellow") for finding in shown.findings]
    parts += [Text()] if front is None else [Text(), Text("the whole network", style="bold")]
    parts += [_lines(shown.lines, width)]
    if shown.worst:
        parts += [Text(), _worst(shown, width)]
    coming = shown.underflow.sentence if shown.underflow else "no layer is on its way out of float32's range"
    parts += [Text(), Text(plain(f"underflow: {coming}"), style="" if shown.underflow else "dim")]
    if shown.events:
        parts += [Text(), *(Text(plain(f"step {e.step:,}: {e.kind}: {e.text}"), style="dim") for e in shown.events)]
    return Group(*parts)


def _lines(lines: Iterable[Line], width: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for line in lines:
        row = sparkline(line.values, max(8, width - 24), log=line.log)
        table.add_row(line.name, Text(row, style="cyan"), _number(line.last))
    return table


def _worst(shown: Frame, width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), title="worst off", title_justify="left", title_style="bold")
    table.add_column("layer", overflow="ellipsis", no_wrap=True)
    names = (
        (f"{GRADIENT.symbol} left", f"{WEIGHT.symbol} left")
        if width < NARROW
        else (GRADIENT.symbol, "of its start", f"{WEIGHT.symbol} of its start", PROPORTION.symbol)
    )
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for one in shown.worst:
        left = (_number(one.gradient_left), _number(one.weight_left))
        row = left if width < NARROW else (_number(one.gradient), *left, _number(one.proportion))
        table.add_row(Text(plain(one.name)), *row)
    return table


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"


def watch(path: Path, console: Console) -> Frame | None:
    """Show the run until it ends.

    Waits for a file that is not there yet; raises `InputError` for what is no record.

    Returns:
        The last frame, None if there never was one.
    """
    last, layers = None, None  # the order of the layers, from when one was chosen
    with Follower(path) as follower:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live, Keys() as keys:
                for look in looks(follower, keys.wait):
                    last = look or last
                    layers = (layers or ordered(last)) if last and keys.place else None
                    front = chosen(last, keys.place, keys.by_block, layers) if last else None
                    shown = drawn(last, console.width, front) if last else _waiting(path)
                    live.update(_scrolled(console, shown, keys), refresh=True)
        else:
            last = _told(follower, path)
    if last is not None:
        console.print(drawn(last, console.width))
    return last


def _scrolled(console: Console, shown: RenderableType, keys: Keys) -> RenderableType:
    """Cut to what fits on the terminal, from where the keys have moved to."""
    lines = console.render_lines(shown, pad=False)
    room = console.height - 1
    if len(lines) <= room - keys.read:
        keys.top = 0
        return Group(shown, _help(console.width)) if keys.read else shown
    keys.top = max(0, min(keys.top, len(lines) - room + 1 + keys.read))
    part = lines[keys.top : keys.top + room - 1 - keys.read]
    below = len(lines) - keys.top - len(part)
    pieces = ((segment.text, segment.style or "") for line in part for segment in [*line, Segment.line()])
    text = Text.assemble(*pieces, no_wrap=True, overflow="crop")
    text.right_crop()  # the last line ends by itself
    told, how = f"{keys.top} lines above, {below} below", ": ↑ ↓ page keys scroll" if keys.read else ""
    where = Text(told + how if len(told + how) <= console.width else told, style="dim")
    return Group(text, where, _help(console.width)) if keys.read else Group(text, where)


def _help(width: int) -> Text:
    """Name the keys, in one line."""
    long = "n p next, previous layer · N P by ten · b blocks · 0 none · Ctrl-C ends"
    short = "n p layers · b blocks · 0 none"
    return Text(long if len(long) <= width else short[:width], style="dim")


def looks(follower: Follower, pause: Callable[[float], None] | None = None) -> Iterator[Frame | None]:
    """Look again and again until the run is over; raise `InputError` for what is no record.

    Ctrl-C arrives between two looks, when the last one has been drawn: HDF5 would make another error of it.

    Args:
        follower: reads the record.
        pause: called with the seconds between two looks, to wait elsewhere than at the follower.

    Yields:
        A frame, None while there is nothing to see.
    """
    while True:
        with held_back():
            over = follower.over  # first: whatever was there then is in the look that follows
            found = follower.run()
            if over and follower.error is not None:
                raise follower.error
            yield frame(*found, over=over) if found else None
        if over:
            return
        (pause or follower.wait)(LOOK)


def _waiting(path: Path) -> Text:
    doing = "reading" if path.exists() else "waiting for"
    return Text(f"{doing} {plain(str(path))} (Ctrl-C ends)", style="dim")


def _told(follower: Follower, path: Path) -> Frame | None:
    """Print plain lines where there is no terminal, few of them, as they become known."""
    verdict, rows, last = "", TOLD_ROWS, None
    waiting = False
    for look in looks(follower):
        if look is None and not waiting and not path.exists():
            waiting = True
            print(_waiting(path).plain, file=sys.stderr, flush=True)
        last = look or last
        if look is None or (look.verdict == verdict and look.rows < rows):
            continue
        while rows <= look.rows:
            rows *= 2
        verdict = look.verdict
        print(f"{plain(look.head)}: {plain(look.sentence)}", flush=True)
    return last
