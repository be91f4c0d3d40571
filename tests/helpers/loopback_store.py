"""An HTTP store of native checkpoints on this machine, with network and server faults on demand."""

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from loopback_http import LoopbackServer, Request, Response, file_response

PAGE = b"<!DOCTYPE html><html><body>The file you are looking for is not here.</body></html>"
FAULTS = (
    *("drop", "cut", "503", "429", "promise_too_much", "promise_too_little", "truncated", "html"),
    *("html_of_right_length", "trickle", "stall", "ignore_range", "wrong_range", "wrong_place", "flip"),
)


class LoopbackStore(LoopbackServer):
    """Serves `files` (path -> content) with ranges. `next_fault(path)` names the fault of each request.

    `checksum` is the one in its headers: `md5` (as ETag), `sha256`, or None.
    """

    def __init__(self, files: dict[str, bytes], *, checksum: str | None = "md5") -> None:
        super().__init__()
        self.files, self.checksum = files, checksum
        self.next_fault: Callable[[str], str | None] = lambda path: None
        self.requests: list[tuple[str, str, str | None]] = []

    def respond(self, request: Request) -> Response | None:
        path = request.path.lstrip("/")
        self.requests.append((request.method, path, request.range))
        fault = self.next_fault(path)
        if fault == "drop":
            return None
        if fault in ("503", "429"):
            return Response(int(fault), {"Retry-After": "0"})
        if path not in self.files:
            return Response(404, {"Content-Type": "text/html"}, PAGE)
        if fault == "html":
            return Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
        content = self.files[path]
        headers = {"Content-Type": "application/octet-stream"}
        if self.checksum == "md5":
            headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
        if self.checksum == "sha256":
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        request = replace(request, headers={}) if fault == "ignore_range" else request
        return spoil(file_response(request, content, headers), fault, content)


def spoil(response: Response, fault: str | None, content: bytes) -> Response:
    """Introduce a fault into the response with `content` or a range of it."""
    body, num_bytes = response.body, len(response.body)
    if fault == "wrong_range" and response.status == 206:
        found = response.headers["Content-Range"]
        response.headers["Content-Range"] = re.sub(r"(\d+)-", lambda start: f"{int(start[1]) + 1}-", found)
    if fault == "wrong_place" and response.status == 206:
        response.body = content[:num_bytes]
    if fault == "html_of_right_length":
        response.body = (PAGE * (num_bytes // len(PAGE) + 1))[:num_bytes]
    if fault == "truncated":
        response.body = body[: num_bytes * 2 // 3]
    if fault == "flip" and body:
        middle = num_bytes // 2
        response.body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    if fault in ("promise_too_much", "promise_too_little"):
        length = num_bytes + (10 if fault == "promise_too_much" else -(num_bytes // 2))
        response.headers["Content-Length"] = str(length)
    if fault == "trickle":
        response.chunks = slowly(body, num_bytes // 8 + 1, seconds=0.002)
    if fault in ("cut", "stall"):
        response.chunks = slowly(body[: num_bytes // 3], num_bytes + 1, seconds=0.15 if fault == "stall" else 0.0)
    response.is_dropped = fault in ("cut", "stall", "promise_too_much", "promise_too_little")
    return response


def slowly(body: bytes, chunk_bytes: int, *, seconds: float) -> Iterator[bytes]:
    """`body` in chunks, with a pause after each."""
    for start in range(0, len(body), chunk_bytes):
        yield body[start : start + chunk_bytes]
        time.sleep(seconds)


def random_schedule(rng: random.Random) -> Callable[[str], str | None]:
    """Up to eight faults, one per request, then none; in one schedule of six the last fault is repeated for ever."""
    faults = [rng.choice((None, *FAULTS)) for _ in range(rng.randint(0, 8))]
    forever = faults[-1] if faults and rng.random() < 1 / 6 else None

    def next_fault(_path: str) -> str | None:
        return faults.pop(0) if faults else forever

    return next_fault
