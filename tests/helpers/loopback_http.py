"""HTTP servers on this machine for tests: request and response objects, byte ranges, dropped connections, routes."""

import contextlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound="LoopbackServer")
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., "Response"]]] = []


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    chunks: Iterable[bytes] = ()
    """What is sent instead of `body`, piece by piece."""
    is_dropped: bool = False
    """Drop the connection after the body, which may be shorter than its Content-Length."""


class LoopbackServer:
    """Serves requests in background threads inside a `with` block."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._server.daemon_threads = True

    def __enter__(self: Server) -> Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def respond(self, request: Request) -> Response | None:
        """The response; None to drop the connection."""
        raise NotImplementedError


def handler_of(server: LoopbackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise small responses wait 40 ms for an acknowledgement.
        disable_nagle_algorithm = True

        def respond(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            response = server.respond(Request(self.command, path, urllib.parse.parse_qs(query), self.headers, body))
            if response is None:
                self.drop()
                return
            self.send_response(response.status)
            for name, value in ({"Content-Length": str(len(response.body))} | response.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                for chunk in response.chunks or (response.body,):
                    self.wfile.write(chunk)
                if response.is_dropped:
                    self.drop()

        def drop(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client closed the connection
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    return Handler


def file_response(request: Request, content: bytes, headers: Mapping[str, str]) -> Response:
    """The file, or the requested range of it."""
    if not request.range:
        return Response(200, {"Accept-Ranges": "bytes", **headers}, content)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range)
    assert match, f"only one range is served, found {request.range}"
    start, end = int(match[1]), min(len(content), int(match[2] or len(content)) + 1)
    status, served = (206, f"{start}-{end - 1}") if start < end else (416, "*")
    content_range = f"bytes {served}/{len(content)}"
    return Response(status, {"Accept-Ranges": "bytes", "Content-Range": content_range, **headers}, content[start:end])


def route(method: str, pattern: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Register a method `(hub, request, **named groups)`; the one registered last takes precedence."""

    def register(handler: Callable[..., Response]) -> Callable[..., Response]:
        ROUTES.insert(0, (method, re.compile(pattern), handler))
        return handler

    return register


def as_json(value: Any, *, status: int = 200, **headers: str) -> Response:
    return Response(status, {"Content-Type": "application/json"} | headers, json.dumps(value).encode())


def error(status: int, code: str, message: str) -> Response:
    return as_json({"error": message}, status=status, **{"X-Error-Code": code, "X-Error-Message": message})
