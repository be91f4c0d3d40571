"""Download a file over HTTP, complete or not at all: resumed after a failure, verified before it counts."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import httpx

from open_instruct.checkpoints.file_content import check_content
from open_instruct.checkpoints.http_probe import (
    PERMANENT_STATUSES,
    RETRIABLE,
    Attempts,
    CorruptFileError,
    RemoteFile,
    RetryPolicy,
    TransferError,
    check_response,
)
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import file_hash, sha256
from open_instruct.common.json_files import read_json, write_json

OnBytes = Callable[[int], object]
"""Called with the number of bytes received; negative where received bytes are discarded."""


def fetch(client: httpx.Client, remote: RemoteFile, path: Path, policy: RetryPolicy, *, on_bytes: OnBytes) -> str:
    """Download the file to `path`, or the rest of it; returns what verified it.

    Raises UserError where the store fails too often, or sends another file than it described.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_name(path.name + ".source.json")
    if source.is_file() and read_json(source) != json.loads(json.dumps(asdict(remote))):
        path.unlink(missing_ok=True)  # part of another file
    write_json(source, asdict(remote))
    on_bytes(size(path))
    attempts = Attempts(remote.url, policy)
    seen: set[str] = set()
    while True:
        before = size(path)
        try:
            if before < remote.num_bytes:
                receive(client, remote, path, policy, on_bytes)
            verified_by = verify(path, remote)
            if not remote.needs_two_copies or came_twice(path, seen):
                source.unlink()
                return verified_by
            discard(path, on_bytes)
        except RETRIABLE as error:
            if isinstance(error, CorruptFileError) or remote.needs_two_copies:
                discard(path, on_bytes)
            # A trickle is no progress: a thousandth of the file has to come.
            attempts.failed(error, progressed=size(path) - before > remote.num_bytes / 1000)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def discard(path: Path, on_bytes: OnBytes) -> None:
    on_bytes(-size(path))
    path.unlink(missing_ok=True)


def receive(client: httpx.Client, remote: RemoteFile, path: Path, policy: RetryPolicy, on_bytes: OnBytes) -> None:
    """Append what is missing.  Raises TransferError for another file or range, and for an early end."""
    start = size(path)
    headers = {"Range": f"bytes={start}-"} if start else {}
    # Without If-Range the rest of a file that has changed would be appended to a part of the old one.
    if start and remote.validator and not remote.validator.startswith("W/"):
        headers["If-Range"] = remote.validator
    with client.stream("GET", remote.url, headers=headers) as response:
        if response.status_code in PERMANENT_STATUSES:
            raise UserError(
                f"{remote.url}: HTTP {response.status_code}; the store had it a moment ago, try again later"
            )
        if response.status_code == 416:
            raise CorruptFileError("the store has no such range of it")
        check_response(response)
        start = check_range(response, remote, start)
        on_bytes(start - size(path))
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            received, since, at_since = start, time.monotonic(), start
            for chunk in response.iter_raw():
                if received + len(chunk) > remote.num_bytes:
                    raise CorruptFileError(f"more than the expected {remote.num_bytes:,} bytes came")
                file.write(chunk)
                received += len(chunk)
                on_bytes(len(chunk))
                if (elapsed := time.monotonic() - since) > policy.timeout_seconds:
                    if (received - at_since) / elapsed < policy.min_bytes_per_second:
                        raise TransferError(f"{(received - at_since) / elapsed:.0f} bytes/s are too slow")
                    since, at_since = time.monotonic(), received
    if received < remote.num_bytes:
        raise TransferError(f"ended after {received:,} of {remote.num_bytes:,} bytes")


def check_range(response: httpx.Response, remote: RemoteFile, start: int) -> int:
    """Offset at which the response begins.  Raises TransferError for another file, or another length."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("content-range", ""))
        if not found or int(found[1]) != start or found[3] not in (str(remote.num_bytes), "*"):
            raise TransferError(f"requested bytes from {start}, got {response.headers.get('content-range')!r}")
    else:
        start = 0
        length = response.headers.get("content-length", str(remote.num_bytes))
        if length != str(remote.num_bytes):
            raise TransferError(f"expected {remote.num_bytes:,} bytes, the store now announces {length}")
    validator = response.headers.get("etag") or response.headers.get("last-modified")
    if remote.validator and validator and validator != remote.validator:
        raise CorruptFileError("it changed at the store during the download; start again")
    return start


def verify(path: Path, remote: RemoteFile) -> str:
    """What verified the file.  Raises CorruptFileError where it is not the file described, or not of its kind."""
    if size(path) != remote.num_bytes:
        raise CorruptFileError(f"it has {size(path):,} bytes, expected {remote.num_bytes:,}")
    if remote.checksum:
        algorithm, expected = remote.checksum
        found = file_hash(path, algorithm)
        if found != expected:
            raise CorruptFileError(f"its {algorithm} is {found}, expected {expected}")
    try:
        inner = check_content(path, remote.name, deep=remote.checksum is None)
    except ValueError as error:
        raise CorruptFileError(str(error)) from error
    if remote.checksum:
        return remote.checksum[0]
    return inner or ("two equal copies" if remote.needs_two_copies else "length")


def came_twice(path: Path, seen: set[str]) -> bool:
    """Whether an earlier download had the same content.  Raises CorruptFileError where each one differs."""
    content = sha256(path)
    if content in seen:
        return True
    seen.add(content)
    if len(seen) > 3:
        raise CorruptFileError("the store sends something else each time")
    return False
