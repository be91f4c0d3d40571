"""An HTTP store of native checkpoints on this machine, with network and server faults on demand."""

import contextlib
import hashlib
import random
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from loopback_http import LoopbackServer, byte_range

PAGE = b"<!DOCTYPE html><html><body>The file you are looking for is not here.</body></html>"


class LoopbackStore(LoopbackServer):
    """Serves `files` (path -> content) with ranges. `next_fault(path)` names the fault of each request.

    `checksum` is the one in its headers: `md5` (as ETag), `sha256`, or None.
    """

    def __init__(self, files: dict[str, bytes], *, checksum: str | None = "md5") -> None:
        super().__init__(handler_of(self))
        self.files, self.checksum = files, checksum
        self.next_fault: Callable[[str], str | None] = lambda path: None
        self.requests: list[tuple[str, str, str | None]] = []

    def headers(self, content: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if self.checksum == "md5":
            headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
        if self.checksum == "sha256":
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        return headers


FAULTS = (
    *("drop", "cut", "503", "429", "promise_too_much", "promise_too_little", "truncated", "html"),
    *("html_of_right_length", "trickle", "stall", "ignore_range", "wrong_range", "wrong_place", "flip"),
)


def handler_of(store: LoopbackStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise small responses wait 40 ms for an acknowledgement.
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self.respond()

        def do_GET(self) -> None:
            self.respond()

        def respond(self) -> None:
            path = self.path.lstrip("/")
            store.requests.append((self.command, path, self.headers.get("Range")))
            fault = store.next_fault(path)
            if fault == "drop":
                return self.drop()
            if fault in ("503", "429"):
                return self.send(int(fault), {"Retry-After": "0"}, b"")
            if path not in store.files:
                return self.send(404, {"Content-Type": "text/html"}, PAGE)
            if fault == "html":
                return self.send(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
            return self.send_file(store.files[path], fault)

        def send_file(self, content: bytes, fault: str | None) -> None:
            headers = store.headers(content)
            start, end, status = 0, len(content), 200
            requested = self.headers.get("Range")
            if requested and fault != "ignore_range":
                start, end = byte_range(requested, len(content))
                status = 206 if start < end else 416
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            body = content[start:end]
            if fault == "wrong_range" and status == 206:
                headers["Content-Range"] = f"bytes {start + 1}-{end - 1}/{len(content)}"
            if fault == "wrong_place" and status == 206:
                body = content[: len(body)]
            if fault == "html_of_right_length":
                body = (PAGE * (len(body) // len(PAGE) + 1))[: len(body)]
            if fault == "truncated":
                body = body[: len(body) * 2 // 3]
            if fault == "flip" and body:
                place = len(body) // 2
                body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
            length = len(body)
            length += {"promise_too_much": 10, "promise_too_little": -(length // 2)}.get(fault or "", 0)
            self.send(status, headers | {"Content-Length": str(length)}, body, fault)

        def send(self, status: int, headers: dict[str, str], body: bytes, fault: str | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault == "trickle":
                for start in range(0, len(body), 1 + len(body) // 8):
                    self.wfile.write(body[start : start + 1 + len(body) // 8])
                    self.wfile.flush()
                    time.sleep(0.002)
                return
            if fault in ("cut", "stall"):
                self.wfile.write(body[: len(body) // 3])
                self.wfile.flush()
                if fault == "stall":
                    time.sleep(0.15)
                self.drop()
                return
            self.wfile.write(body)
            if fault in ("promise_too_much", "promise_too_little"):
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

    return Handler


def random_schedule(rng: random.Random) -> Callable[[str], str | None]:
    """Up to eight faults, one per request, then none; in one schedule of six the last fault is repeated for ever."""
    faults = [rng.choice((None, *FAULTS)) for _ in range(rng.randint(0, 8))]
    forever = faults[-1] if faults and rng.random() < 1 / 6 else None

    def next_fault(_path: str) -> str | None:
        return faults.pop(0) if faults else forever

    return next_fault
