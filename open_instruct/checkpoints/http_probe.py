"""Query an HTTP store about a file without downloading it: length, version, checksum. Failures are retried."""

import random
import re
import time
from base64 import b64decode
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import httpx

from open_instruct.common.errors import UserError

PERMANENT_STATUSES = (401, 403, 404, 410)
"""A retry does not change these."""
SMALL_BYTES = 1 << 20


@dataclass(frozen=True)
class RetryPolicy:
    retries: int = 8
    """Attempts in a row that may fail."""
    timeout_seconds: float = 30.0
    """Longest time without data."""
    backoff_seconds: float = 1.0
    """Wait after the first failure; doubled after each further one, up to a minute."""
    min_bytes_per_second: float = 1_000.0
    """A connection that is slower, averaged over `timeout_seconds`, is closed and another one opened."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store, as the store describes it."""

    url: str
    num_bytes: int
    validator: str | None = None
    """ETag or Last-Modified, which changes with the file."""
    checksum: tuple[str, str] | None = None
    """Algorithm and hexadecimal value, where the store provides one."""

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    @property
    def needs_two_copies(self) -> bool:
        """A small file without a checksum, such as config.yaml, is verified by a second download."""
        return self.checksum is None and self.num_bytes < SMALL_BYTES and not self.name.endswith(".pt")


class TransferError(Exception):
    """A failure that a retry may cure."""

    def __init__(self, reason: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class CorruptFileError(TransferError):
    """The bytes received are not those of the file: it is downloaded again from its beginning."""


RETRIABLE = (TransferError, httpx.HTTPError, httpx.InvalidURL)
INVALID_URL = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects)


class Attempts:
    """Counts failures in a row, and waits longer after each."""

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        self.url, self.policy = url, policy
        self.num_failures = self.num_corrupt = 0

    def failed(self, error: Exception, *, progressed: bool = False) -> None:
        """Raises UserError when no retry is left, and for an invalid URL."""
        if isinstance(error, INVALID_URL):
            raise UserError(f"{self.url}: not the URL of a file: {error}") from error
        self.num_failures = 1 if progressed else self.num_failures + 1
        self.num_corrupt += isinstance(error, CorruptFileError)
        if self.num_failures > self.policy.retries or self.num_corrupt > 1:
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.url}: {reason}; gave up after {self.num_failures} failure(s) in a row") from error
        backoff = min(60.0, self.policy.backoff_seconds * 2 ** (self.num_failures - 1))
        wait_seconds = min(getattr(error, "wait_seconds", 0.0), 120.0)
        # Jitter, so that parallel downloads do not all retry at the same moment.
        time.sleep(max(wait_seconds, backoff * random.uniform(0.5, 1.0)))


# Loading the certificates takes longer than downloading a small file.
ssl_context = cache(httpx.create_ssl_context)


def open_client(policy: RetryPolicy) -> httpx.Client:
    # Compressed transfer would change lengths and ranges.
    headers = {"Accept-Encoding": "identity"}
    return httpx.Client(timeout=policy.timeout_seconds, verify=ssl_context(), follow_redirects=True, headers=headers)


def probe(client: httpx.Client, url: str, policy: RetryPolicy) -> RemoteFile | None:
    """Describe a file without downloading it; None where the store does not have it.

    Raises UserError where the store does not respond, sends a web page, or does not give the length.
    """
    attempts = Attempts(url, policy)
    while True:
        try:
            response = client.head(url)
            if response.status_code not in (405, 501):
                return describe(url, response)
            with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as response:
                return describe(url, response)
        except RETRIABLE as error:
            attempts.failed(error)


def describe(url: str, response: httpx.Response) -> RemoteFile | None:
    if response.status_code in PERMANENT_STATUSES:
        return None
    check_response(response)
    headers = response.headers
    if response.status_code == 206:
        length = headers.get("content-range", "").rpartition("/")[2]
    else:
        length = headers.get("content-length", "")
    if not length.isdigit():
        raise UserError(f"{url}: the store does not give the file's length, so a truncated download would go unnoticed")
    return RemoteFile(url, int(length), headers.get("etag") or headers.get("last-modified"), parse_checksum(headers))


def check_response(response: httpx.Response) -> None:
    """Raises TransferError for anything but a file or a range of one."""
    if response.status_code not in (200, 206):
        wait = response.headers.get("retry-after", "")
        raise TransferError(f"HTTP {response.status_code}", wait_seconds=float(wait) if wait.isdigit() else 0.0)
    kind = response.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise TransferError(f"a web page ({kind}) came instead of the file")
    if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
        raise TransferError(f"the file came encoded as {encoding}, expected no encoding")


def parse_checksum(headers: httpx.Headers) -> tuple[str, str] | None:
    """The strongest checksum of the whole file in the headers of common stores."""
    linked = headers.get("x-linked-etag", "").strip('"')  # the Hub: sha256 of large files
    if re.fullmatch(r"[0-9a-f]{64}", linked):
        return "sha256", linked
    # Base64 of AWS, Azure and Google. `...-3` is of the parts of a multipart upload, that of a 206 of its range only.
    encoded = [headers.get(name, "") for name in ("x-amz-checksum-sha256", "content-md5", "x-goog-hash")]
    for value in encoded if "content-range" not in headers else ():
        if found := re.search(r"(?:^|md5=)([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{22}==)(?:,|$)", value):
            return "md5" if found[1].endswith("==") else "sha256", b64decode(found[1]).hex()
    etag = headers.get("etag", "")
    # S3 and compatible stores: the MD5 of a file uploaded in one part, unless encrypted with the store's own keys.
    is_md5 = re.fullmatch(r'"[0-9a-f]{32}"', etag) and "kms" not in headers.get("x-amz-server-side-encryption", "")
    return ("md5", etag.strip('"')) if is_md5 else None
