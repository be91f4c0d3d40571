"""HTTP servers on this machine for tests: request and response objects, routes, byte ranges, dropped connections."""

import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

CHUNK_BYTES = 1 << 16
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., "Response"]]] = []


class LoopbackServer:
    """Serves requests in background threads inside a `with` block."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


@dataclass
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
    body: bytes | Path = b""


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


def handler_of(hub: Any) -> type[BaseHTTPRequestHandler]:
    """Request handler that sends `hub.respond(request)`, and of a file as many bytes as `hub.count_bytes` allows."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            raw_path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, raw_path, urllib.parse.parse_qs(query), self.headers, body)
            response = hub.respond(request)
            if response is None:
                self.drop()
                return
            size = len(response.body) if isinstance(response.body, bytes) else response.body.stat().st_size
            start, end = 0, size
            if response.status == 200 and request.range:
                start, end = byte_range(request.range, size)
                satisfiable = start < end
                response.status = 206 if satisfiable else 416
                response.headers["Content-Range"] = f"bytes {f'{start}-{end - 1}' if satisfiable else '*'}/{size}"
                end = max(start, end)
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if self.command != "HEAD":
                self.send_body(response, start, end)

        def send_body(self, response: Response, start: int, end: int) -> None:
            is_file = "ETag" in response.headers
            for chunk in chunks(response.body, start, end):
                allowed = hub.count_bytes(len(chunk)) if is_file else len(chunk)
                self.wfile.write(chunk[:allowed])
                if allowed < len(chunk):
                    self.wfile.flush()
                    self.drop()
                    return

        def drop(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    return Handler


def byte_range(header: str, size: int) -> tuple[int, int]:
    """First byte and end of a `Range` header of one range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    assert match, f"only one range is served, found {header}"
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def chunks(content: bytes | Path, start: int, end: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from (content[i : min(i + CHUNK_BYTES, end)] for i in range(start, end, CHUNK_BYTES))
        return
    with content.open("rb") as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(CHUNK_BYTES, end - start))
            start += len(chunk)
            yield chunk
