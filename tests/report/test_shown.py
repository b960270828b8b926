"""Words of a record are inert wherever they are shown: no markup, no terminal escapes, no turned direction."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import socket
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import h5py
import pytest
from gradscope_cli.main import run as command

from gradscope.card import card, plain
from gradscope.report.live.web import IDLE, MOST, Handler, served
from gradscope.report.page.document import report
from tests.torture.records import good_and_crashed

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m"
TURNED = "abc\u202egnp.exe\u2066\u200f"
FORMULA = '=HYPERLINK("http://evil.example","x")'
LINK = "![x](http://evil.example/x.png) [y](javascript:alert(1))"
MATH = r"$\frac{1}$ $a^{"
WORDS = {"markup": MARKUP, "escapes": ESCAPES, "turned": TURNED, "formula": FORMULA, "link": LINK, "math": MATH}
LONG = "n" * 10_000


def inert(text: str) -> bool:
    """Nothing in it but letters, and the line breaks of whoever shows it."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp") for c in text.replace("\n", ""))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose parameters, metrics, events and settings are such words."""
    path, _ = good_and_crashed(tmp_path_factory.mktemp("shown"))
    with h5py.File(path, "r+") as file:
        names = [*WORDS.values(), LONG, "plain"]
        file["parameter"][:] = names[: len(file["parameter"])]
        epochs, events = file["epochs"], file["events"]
        for column in epochs.values():
            column.resize(3, axis=0)
        epochs["epoch"][:] = [0, 1, 2]
        for name in (MARKUP, ESCAPES, TURNED, FORMULA, MATH):
            made = epochs.create_dataset(name.replace("/", "_"), data=[0.1, 0.2, 0.3], maxshape=(None,), chunks=(64,))
            made.dims[0].attach_scale(epochs["epoch"])
        count = 2 * len(WORDS) + 1
        for name in ("event", "step", "kind", "text"):
            events[name].resize(count, axis=0)
        events["event"][:] = range(count)
        events["step"][:] = 5
        events["kind"][:] = [*WORDS.values(), *(["note"] * len(WORDS)), "note"]
        events["text"][:] = [*(["text"] * len(WORDS)), *WORDS.values(), LONG]
        for name in ("config", "capture"):
            found = json.loads(file.attrs[name])
            file.attrs[name] = json.dumps(found | {"optimizer": ESCAPES + MARKUP, "note": [*WORDS.values(), "`" * 3]})
    return path


COMMANDS = ("inspect", "diagnose", "compare", "recover", "watch")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_is_told_nothing_to_obey(
    hostile: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"compare": [str(hostile)], "recover": ["-o", str(tmp_path / "s.h5")], "watch": ["--once"]}.get(name, [])
    assert command([name, str(hostile), *more]) in (0, 3)
    out, err = capsys.readouterr()
    assert inert(out)
    assert inert(err)
    assert max(map(len, (out + err).splitlines())) <= 4001


@pytest.mark.parametrize("name", ["inspect", "diagnose", "compare", "watch"])
def test_json_holds_the_words_and_no_character_to_obey(
    hostile: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"compare": [str(hostile)], "watch": ["--once"]}.get(name, [])
    assert command([name, str(hostile), "--json", *more]) in (0, 3)
    out = capsys.readouterr().out
    assert inert(out)
    found = json.loads(out)
    if name == "inspect":
        assert {event["text"] for event in found["events"]} >= {ESCAPES, TURNED, MARKUP, LONG}


def test_a_page_shows_words_as_words(hostile: Path, tmp_path: Path) -> None:
    report([hostile], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    shown = page[page.index("<main") :] if "<main" in page else page
    assert not any(
        mark in shown for mark in ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200f", "\\u202e", "\\u001b")
    )
    assert LONG not in page


def test_a_card_shows_words_as_words() -> None:
    shown = card(MARKUP + ESCAPES, "healthy", [TURNED, LONG], {MARKUP: ESCAPES})
    assert "<img" not in shown
    assert "<script" not in shown
    assert inert(shown)
    assert LONG not in shown


def test_what_is_cut_keeps_both_ends() -> None:
    assert plain("a" * 50 + "b" * 50, 10) == "aaaaa…bbbbb"
    assert plain("a\u00a0b\tc\u2028d") == "a b\ufffdc d"


@pytest.mark.parametrize("figure", ["loss", "proportion"])
def test_a_figure_shows_words_as_words(hostile: Path, tmp_path: Path, figure: str) -> None:
    out = tmp_path / "f.svg"
    assert command(["plot", str(hostile), "--figure", figure, "-o", str(out)]) == 0
    assert command(["compare", str(hostile), str(hostile), "-o", str(tmp_path / "c.png")]) == 0


def test_a_spreadsheet_is_given_no_formula(hostile: Path, tmp_path: Path) -> None:
    assert command(["export", str(hostile), "--to", "csv", "-o", str(tmp_path / "o.csv")]) == 0
    for path in tmp_path.glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.reader(file):
                for cell in row:
                    try:
                        float(cell)
                    except ValueError:
                        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), path.name
    assert "'" + FORMULA in (tmp_path / "o.events.csv").read_text().replace('""', '"')


def test_tensorboard_is_given_no_links(hostile: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    assert command(["export", str(hostile), "--to", "tensorboard", "-o", str(tmp_path / "tb")]) == 0
    (file,) = (tmp_path / "tb").glob("*/*")
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == "verdict" or value.tag.startswith("events/"):
                for text in value.tensor.string_val:
                    assert inert(text.decode())
                    assert not any(mark in text.decode() for mark in ("<", "](", "!["))
            elif value.tag in ("config/text_summary", "config", "capture"):
                for text in value.tensor.string_val:
                    assert text.decode().count("```") == 2


# -- the served page ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(hostile: Path) -> Iterator[tuple[str, int]]:
    with served(hostile) as (url, _):
        found = urlsplit(url)
        assert found.hostname == "127.0.0.1"
        yield str(found.hostname), int(found.port or 0)


def asked(address: tuple[str, int], path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_the_page_is_served_to_itself_only(address: tuple[str, int]) -> None:
    own = f"127.0.0.1:{address[1]}"
    assert asked(address).status == 200
    assert asked(address, Host=f"localhost:{address[1]}", Origin=f"http://{own}").status == 200
    for refused in (
        {"Host": "evil.example"}, {"Host": f"evil.example:{address[1]}"}, {"Host": "localhost:1"},
        {"Host": f"127.0.0.1.evil.example:{address[1]}"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Origin": "http://localhost:1"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ):  # fmt: skip
        for path in ("/", "/live.json"):
            answer = asked(address, path, **refused)
            assert answer.status == 403
            assert answer.read() == b"this page is served to this machine only"


def test_nothing_but_the_page_is_served(address: tuple[str, int]) -> None:
    for path in ("/etc/passwd", "/../../etc/passwd", "//etc/passwd", "/good.h5", "/%2e%2e/", "/live.json/x"):
        assert asked(address, path).status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert asked(address, method=method).status == 501
    answer = asked(address)
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Access-Control-Allow-Origin"] is None
    assert "Python" not in answer.headers["Server"]


def test_connections_that_say_nothing_are_closed(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert Handler.timeout == IDLE <= 60
    monkeypatch.setattr("gradscope.report.live.web.Handler.timeout", 0.2)
    with socket.create_connection(address) as idle:
        idle.sendall(b"GET / HT")
        idle.settimeout(60)
        assert idle.recv(100) == b""
    assert asked(address).status == 200


def test_so_many_connections_and_no_more(hostile: Path) -> None:
    """And the server ends though they say nothing."""
    with served(hostile) as (url, _):
        found = urlsplit(url)
        there = (str(found.hostname), int(found.port or 0))
        idle = [socket.create_connection(there) for _ in range(40)]
        for connection in idle[MOST:]:
            connection.settimeout(IDLE / 2)  # before those that say nothing are closed for it
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    for connection in idle:
        connection.close()
