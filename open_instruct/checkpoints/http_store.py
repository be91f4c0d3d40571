"""Files over HTTP that arrive whole or not at all: probed first, resumed after a break, verified before they count."""

import hashlib
import json
import random
import re
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from open_instruct.checkpoints.file_content import check_content
from open_instruct.common.artifacts import sha256
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json

GONE = (401, 403, 404, 410)
"""Answers that another attempt does not change."""
SMALL_BYTES = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for."""

    retries: int = 8
    """Attempts in a row that may bring nothing."""
    timeout_seconds: float = 30.0
    """Longest silence."""
    backoff_seconds: float = 1.0
    """Wait after the first failure; it doubles up to a minute."""
    slowest_bytes_per_second: float = 1_000.0
    """Below it, over `timeout_seconds`, a connection is given up and another one tried."""


@dataclass(frozen=True)
class Remote:
    """A file of a store, as the store describes it."""

    url: str
    num_bytes: int
    validator: str | None = None
    """ETag or Last-Modified: another one means another file."""
    checksum: tuple[str, str] | None = None
    """Algorithm and hexadecimal value, where the store gives one."""

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    @property
    def is_unchecked(self) -> bool:
        """A small file without a checksum, such as config.yaml: cheap to fetch twice, and never sewn together."""
        return self.checksum is None and self.num_bytes < SMALL_BYTES and not self.name.endswith(".pt")


class Broken(Exception):
    """An answer that may be better next time."""

    def __init__(self, reason: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Damaged(Broken):
    """A file of the right length that is not the right file: to be fetched anew from its beginning."""


class Unconfirmed(Broken):
    """A whole file that should come a second time before it is believed."""

    def __init__(self) -> None:
        super().__init__("it came once only")


class Attempts:
    """Counts failures in a row, and waits longer after each."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url, self.patience = url, patience
        self.num_failures = self.num_damaged = 0

    def failed(self, error: Broken, *, progressed: bool = False) -> None:
        """Raises UserError where the patience is used up."""
        self.num_failures = 1 if progressed else self.num_failures + 1
        self.num_damaged += isinstance(error, Damaged)
        if self.num_failures > self.patience.retries or self.num_damaged > 1:
            raise UserError(f"{self.url}: {error}; gave up after {self.num_failures} failure(s) in a row") from error
        backoff = min(60.0, self.patience.backoff_seconds * 2 ** (self.num_failures - 1))
        # Jitter: parallel downloads do not all come back at the same moment.
        time.sleep(max(min(error.wait_seconds, 120.0), backoff * random.uniform(0.5, 1.0)))


tls = cache(httpx.create_ssl_context)
"""Reading the certificates takes longer than fetching a small file."""


def open_client(patience: Patience) -> httpx.Client:
    # Compressed transfer would make lengths and ranges those of another file.
    return httpx.Client(
        timeout=patience.timeout_seconds,
        verify=tls(),
        follow_redirects=True,
        headers={"Accept-Encoding": "identity"},
    )


def probe(client: httpx.Client, url: str, patience: Patience) -> Remote | None:
    """What a store says of a file without sending it; None where it has none of this name.

    Raises UserError where the store does not answer, shows a web page, or does not tell the length.
    """
    attempts = Attempts(url, patience)
    while True:
        try:
            with transport_errors():
                answer = client.head(url)
                if answer.status_code not in (405, 501):
                    return describe(url, answer)
                with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as answer:
                    return describe(url, answer)
        except Broken as error:
            attempts.failed(error)


@contextmanager
def transport_errors() -> Iterator[None]:
    """Whatever goes wrong on the way is Broken; an address that none can open is the user's to mend."""
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise UserError(f"not an address of a file: {error}") from error
    except httpx.HTTPError as error:
        raise Broken(str(error) or type(error).__name__) from error


def describe(url: str, answer: httpx.Response) -> Remote | None:
    if answer.status_code in GONE:
        return None
    refuse_failure(answer)
    headers = answer.headers
    length = headers.get("content-range", "").rpartition("/")[2] if answer.status_code == 206 else None
    length = headers.get("content-length", "") if length is None else length
    if not length.isdigit():
        raise UserError(f"{url}: the store does not tell the length, so a whole file cannot be told from a broken one")
    validator = headers.get("etag") or headers.get("last-modified")
    return Remote(url, int(length), validator, read_checksum(headers))


def refuse_failure(answer: httpx.Response) -> None:
    """Raises Broken for anything but a file or a part of one."""
    if answer.status_code not in (200, 206):
        wait = answer.headers.get("retry-after", "")
        raise Broken(f"HTTP {answer.status_code}", wait_seconds=float(wait) if wait.isdigit() else 0.0)
    kind = answer.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise Broken(f"a web page ({kind}) came in place of the file")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise Broken(f"the file came as {answer.headers['content-encoding']}, which was not asked for")


def read_checksum(headers: httpx.Headers) -> tuple[str, str] | None:
    """The strongest checksum of the whole file that common stores send along."""
    linked = headers.get("x-linked-etag", "").strip('"')  # the Hub's: sha256 of large files
    if re.fullmatch(r"[0-9a-f]{64}", linked):
        return "sha256", linked
    encoded = {"sha256": headers.get("x-amz-checksum-sha256"), "md5": headers.get("content-md5")}
    for item in headers.get("x-goog-hash", "").split(","):
        algorithm, _, value = item.strip().partition("=")
        encoded["md5"] = value if algorithm == "md5" else encoded["md5"]
    for algorithm, value in encoded.items():
        # One of several parts (`...-3`) is no checksum of the file; a 206 has the checksum of its range only.
        if value and re.fullmatch(r"[A-Za-z0-9+/]+=*", value) and "content-range" not in headers:
            try:
                return algorithm, b64decode(value, validate=True).hex()
            except Base64Error:
                continue
    etag = headers.get("etag", "")
    # S3 and its kin: the MD5 of a file that was sent in one piece, unless keys of the store's own encrypt it.
    is_md5 = re.fullmatch(r'"[0-9a-f]{32}"', etag) and "kms" not in headers.get("x-amz-server-side-encryption", "")
    return ("md5", etag.strip('"')) if is_md5 else None


def fetch(
    client: httpx.Client, remote: Remote, path: Path, patience: Patience, *, on_bytes: Callable[[int], object]
) -> str:
    """Bring the file to `path`, going on with what is there; returns by what it was verified.

    `on_bytes` is told what arrives (less than nothing where a part is thrown away). Raises UserError where the store
    fails too often, or what it sends is not the file that it described.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_name(path.name + ".source.json")
    if note.is_file() and read_json(note) != json.loads(json.dumps(asdict(remote))):
        path.unlink(missing_ok=True)  # a part of another file
    write_json(note, asdict(remote))
    on_bytes(size(path))
    attempts = Attempts(remote.url, patience)
    seen: set[str] = set()
    while True:
        before = size(path)
        try:
            with transport_errors():
                if size(path) < remote.num_bytes:
                    receive(client, remote, path, patience, on_bytes)
                verified_by = verify(path, remote)
                if remote.is_unchecked and not came_twice(path, seen):
                    raise Unconfirmed
                note.unlink()
                return verified_by
        except Broken as error:
            if isinstance(error, Damaged) or remote.is_unchecked:
                on_bytes(-size(path))
                path.unlink(missing_ok=True)
            if not isinstance(error, Unconfirmed):
                # A trickle is no progress: a thousandth of the file has to come.
                attempts.failed(error, progressed=size(path) - before > remote.num_bytes / 1000)


def came_twice(path: Path, seen: set[str]) -> bool:
    """Whether the same content came before: the only proof where a store gives no checksum.

    Raises Damaged where it is another one each time.
    """
    content = sha256(path)
    if content in seen:
        return True
    seen.add(content)
    if len(seen) > 3:
        raise Damaged("every time it is asked for, the store sends something else")
    return False


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def receive(
    client: httpx.Client, remote: Remote, path: Path, patience: Patience, on_bytes: Callable[[int], object]
) -> None:
    """Append what is missing.  Raises Broken where the answer is not the rest of this very file, or ends early."""
    start = size(path)
    headers = {"Range": f"bytes={start}-"} if start else {}
    # Without If-Range a file that changed meanwhile would be sewn to the part of the old one.
    if start and remote.validator and not remote.validator.startswith("W/"):
        headers["If-Range"] = remote.validator
    with client.stream("GET", remote.url, headers=headers) as answer:
        if answer.status_code in GONE:
            raise UserError(f"{remote.url}: HTTP {answer.status_code}; the store had it a moment ago, try again later")
        if answer.status_code == 416:
            raise Damaged("the store has no such range of it")
        refuse_failure(answer)
        start = check_range(answer, remote, start)
        on_bytes(start - size(path))
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            received, since, at_since = start, time.monotonic(), start
            for chunk in answer.iter_raw():
                if received + len(chunk) > remote.num_bytes:
                    raise Damaged(f"more than the {remote.num_bytes:,} bytes that the store promised came")
                file.write(chunk)
                received += len(chunk)
                on_bytes(len(chunk))
                if (elapsed := time.monotonic() - since) > patience.timeout_seconds:
                    if (received - at_since) / elapsed < patience.slowest_bytes_per_second:
                        raise Broken(f"{(received - at_since) / elapsed:.0f} bytes/s are too slow")
                    since, at_since = time.monotonic(), received
    if received < remote.num_bytes:
        raise Broken(f"ended after {received:,} of {remote.num_bytes:,} bytes")


def check_range(answer: httpx.Response, remote: Remote, start: int) -> int:
    """Where in the file the answer begins.  Raises Broken where it is of another file, or of another length."""
    if answer.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("content-range", ""))
        if not found or int(found[1]) != start or found[3] not in (str(remote.num_bytes), "*"):
            raise Broken(f"asked for bytes from {start}, got {answer.headers.get('content-range')!r}")
    else:
        start = 0
        length = answer.headers.get("content-length", str(remote.num_bytes))
        if length != str(remote.num_bytes):
            raise Broken(f"the store promised {remote.num_bytes:,} bytes and now sends {length}")
    validator = answer.headers.get("etag") or answer.headers.get("last-modified")
    if remote.validator and validator and validator != remote.validator:
        raise Damaged("it changed at the store while it was fetched; start again")
    return start


def verify(path: Path, remote: Remote) -> str:
    """By what the file was verified.  Raises Damaged where it is not what the store described, or not of its kind."""
    if size(path) != remote.num_bytes:
        raise Damaged(f"{size(path):,} bytes came, {remote.num_bytes:,} were promised")
    if remote.checksum:
        algorithm, expected = remote.checksum
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            raise Damaged(f"its {algorithm} is {found}, the store's {expected}")
    try:
        inner = check_content(path, remote.name, deep=remote.checksum is None)
    except ValueError as error:
        raise Damaged(str(error)) from error
    return remote.checksum[0] if remote.checksum else inner or ("two equal copies" if remote.is_unchecked else "length")
