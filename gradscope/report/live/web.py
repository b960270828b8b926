"""Serves the page of a run while it goes on, to browsers on this machine only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gradscope.report.live.follower import Follower
from gradscope.report.live.frame import frame
from gradscope.report.page.document import document, news
from gradscope.report.page.summary import Page
from gradscope.types import InputError

HOST = "127.0.0.1"
#: A page of another site may not ask us under a name of its own (DNS rebinding).
NAMES = ("127.0.0.1", "localhost")
WAITING = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="2"><title>gradscope</title>'
    "<p>Waiting for the first rows of {path}. This page looks again every two seconds."
)


class View:
    """What the server answers with: pages made of what a follower has seen, one at a time."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._lock = Lock()

    def html(self) -> str:
        """The page, or one that waits."""
        with self._lock:
            found = self.follower.run()
            if found is None:
                return WAITING.format(path=escape(str(self.follower.path)))
            return document(Page(found[0].label, (found[0],), ()), live=True)

    def news(self, since: str) -> dict[str, Any] | None:
        """What changed since that version; None: nothing."""
        with self._lock:
            over, found = self.follower.over, self.follower.run()
            if found is None:
                return None
            run, pace = found
            version = f"{run.rows}-{run.status}-{len(run.marks)}-{over}"
            if version == since:
                return None
            told = frame(run, pace, over).head
            return {**news(Page(run.label, (run,), ())), "version": version, "over": over, "told": told}


class Handler(BaseHTTPRequestHandler):
    """Two addresses: the page, and its news as JSON."""

    def __init__(self, view: View, *rest: Any) -> None:
        self._view = view
        super().__init__(*rest)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in NAMES:
            self._answer(403, "text/plain", b"this page is served to this machine only")
        elif address.path == "/":
            self._answer(200, "text/html", self._view.html().encode())
        elif address.path == "/live.json":
            fresh = self._view.news(parse_qs(address.query).get("since", [""])[0])
            if fresh is None:
                self._answer(204, "application/json", b"")
            else:
                self._answer(200, "application/json", json.dumps(fresh, ensure_ascii=False).encode())
        else:
            self._answer(404, "text/plain", b"there is / and /live.json")

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        try:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the reader has gone

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the terminal is for messages."""


@contextmanager
def served(path: Path, port: int = 0) -> Iterator[tuple[str, View]]:
    """The address under which the run is served, for as long as the context lasts; ``port`` 0 takes a free one.

    Raises `InputError` where the port cannot be had.
    """
    with Follower(path) as follower:
        view = View(follower)
        try:
            server = ThreadingHTTPServer((HOST, port), partial(Handler, view))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "it is no port"
            raise InputError(f"cannot serve on port {port}: {why}; give another --port, or 0 for a free one") from None
        server.daemon_threads = False  # closing waits for answers that are being given: HDF5 again
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/", view
        finally:
            server.shutdown()
            server.server_close()
