"""Serve the page of a run while it goes on, to browsers on this machine only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RD, socket
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gradscope.report.live.follower import Follower
from gradscope.report.live.frame import frame
from gradscope.report.page.document import document, news
from gradscope.report.page.page_values import Page
from gradscope.types import InputError

HOST = "127.0.0.1"
#: A page of another site may not ask us under a name of its own (DNS rebinding).
NAMES = ("127.0.0.1", "localhost")
#: Seconds after which a connection that says nothing is closed, and connections at a time.
IDLE, MOST = 10.0, 32
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
WAITING = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="2"><title>gradscope</title>'
    "<p>Waiting for the first rows of {path}. This page looks again every two seconds."
)


class LiveView:
    """Pages that the server answers with, made of what a follower has seen, one at a time."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._lock = Lock()

    def html(self) -> str:
        """Return the page, or one that waits."""
        with self._lock:
            found = self.follower.run()
            if found is None:
                return WAITING.format(path=escape(str(self.follower.path)))
            return document(Page(found[0].label, (found[0],), ()), live=True)

    def news(self, since: str) -> dict[str, Any] | None:
        """Return what changed since that version, None for nothing."""
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
    """Request handler with two addresses: the page, and its news as JSON."""

    def __init__(self, view: LiveView, *rest: Any) -> None:
        self._view = view
        super().__init__(*rest)

    timeout = IDLE  # of a connection that says nothing
    server_version, sys_version = "gradscope", ""

    def do_GET(self) -> None:
        """Answer a request."""
        address = urlsplit(self.path)
        if not self._asked_by_us():
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

    def _asked_by_us(self) -> bool:
        """Return whether our own page, or a typed address, asks: every browser says which page does."""
        assert isinstance(self.server, Server)
        port = self.server.server_port
        ours = {f"{name}:{port}" for name in NAMES} | set(NAMES)
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        return (
            len(hosts) == 1
            and hosts[0] in ours
            and all(origin in {f"http://{name}:{port}" for name in NAMES} for origin in origins)
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        try:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the reader has gone

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal is for messages."""


class Server(ThreadingHTTPServer):
    """Server of a limited number of connections, all of which end with it."""

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket] = set()
        self._noting = Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start an answer, or hang up where there are too many."""
        with self._noting:
            full = len(self._connections) >= MOST
            if not full:
                self._connections.add(request)
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection and end it."""
        with self._noting:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of a connection that broke off."""

    def hang_up(self) -> None:
        """End connections that still wait for their browser."""
        with self._noting:
            left = list(self._connections)
        for connection in left:
            with suppress(OSError):
                connection.shutdown(SHUT_RD)


@contextmanager
def served(path: Path, port: int = 0) -> Iterator[tuple[str, LiveView]]:
    """Serve the run for as long as the context lasts; ``port`` 0 takes a free one.

    Yields:
        The address, and the view that answers.

    Raises:
        InputError: the port cannot be had.
    """
    with Follower(path) as follower:
        view = LiveView(follower)
        try:
            server = Server((HOST, port), partial(Handler, view))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "it is no port"
            raise InputError(f"cannot serve on port {port}: {why}; give another --port, or 0 for a free one") from None
        server.daemon_threads = False  # closing waits for answers that are being given: HDF5 again
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        try:
            yield f"http://{HOST}:{server.server_port}/", view
        finally:
            server.shutdown()
            server.hang_up()
            server.server_close()
