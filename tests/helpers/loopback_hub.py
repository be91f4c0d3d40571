"""A Hub on this machine: the part of the Hub's HTTP protocol that huggingface_hub reads with.

Serves a test's repositories to the real clients, with network failures on demand:

    with LoopbackHub() as hub:
        commit = hub.add("dataset", "nyu-mll/glue", {"rte/train.parquet": content}, ref="refs/convert/parquet")
        hub.point_clients_here(monkeypatch, cache)
        hub.go_down(after_bytes=1000)                                        # in the middle of a file
        hub.come_up()

`hub.requests` records the requests. To extend the protocol, add a method with `@route` to a subclass.
"""

import hashlib
import re
import threading
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopback_http import ROUTES, LoopbackServer, Request, Response, as_json, error, file_response, route
from loopback_repositories import Commit, Repository, entries, file_entry, inside

REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
LAST_MODIFIED = "2026-11-01T12:00:00.000Z"
API = rf"/api/(?P<kind>model|dataset|space)s/{REPO}"


class NotFoundError(Exception):
    def __init__(self, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.response = error(404, code, message)
        self.response.headers.update(headers)


class LoopbackHub(LoopbackServer):
    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self._bytes_until_down: int | None = None
        self._lock = threading.Lock()

    # -- called by tests ----------------------------------------------------------------------------------------------

    @property
    def cdn_url(self) -> str:
        """The same server under another host name: HEAD requests follow redirects within one host only."""
        return f"http://localhost:{self._server.server_address[1]}"

    def add(
        self,
        kind: str,
        repo: str,
        files: Mapping[str, bytes | str | Path],
        *,
        ref: str = "main",
        commit_id: str | None = None,
    ) -> str:
        """Commit `files` on top of `ref` (a branch, or a full `refs/...`); returns the commit's id."""
        repository = self.repositories.setdefault((kind, repo), Repository())
        name = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
        base = repository.commit(name)
        content = dict(base.files) if base else {}
        for path, data in files.items():
            data = data.read_bytes() if isinstance(data, Path) else data
            content[path] = data.encode() if isinstance(data, str) else data
        number = len(repository.commits)
        commit_id = commit_id or hashlib.sha1(f"{kind} {repo} {name} {number}".encode()).hexdigest()
        repository.commits[commit_id] = Commit(commit_id, content)
        repository.refs[name] = commit_id
        return commit_id

    def point_clients_here(self, monkeypatch: Any, cache: Path) -> None:
        """Point huggingface_hub in this process here, with its cache in `cache`."""
        # It reads its environment on import only.
        import huggingface_hub.hf_api
        from huggingface_hub import HfFileSystem, constants

        for name, value in {"HF_ENDPOINT": self.url, "NO_PROXY": "127.0.0.1,localhost"}.items():
            monkeypatch.setenv(name, value)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + template)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.url)
        HfFileSystem.clear_instance_cache()

    def go_down(self, *, after_bytes: int = 0) -> None:
        """Drop every connection after so many more bytes of files."""
        with self._lock:
            self._bytes_until_down = after_bytes

    def come_up(self) -> None:
        with self._lock:
            self._bytes_until_down = None

    def requests_of(self, pattern: str) -> list[Request]:
        return [request for request in self.requests if re.search(pattern, request.path)]

    # -- called by the server -----------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response | None:
        """The response; None to drop the connection."""
        self.requests.append(request)
        if self._bytes_until_down == 0:
            return None
        for method, pattern, handler in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == request.method.replace("HEAD", "GET"):
                named = {name: urllib.parse.unquote(value or "") for name, value in match.groupdict().items()}
                try:
                    return handler(self, request, **named)
                except NotFoundError as missing:
                    return missing.response
        return error(404, "", f"{request.method} {request.path} is not served by this hub")

    def send_file(self, request: Request, content: bytes, headers: dict[str, str]) -> Response:
        """The file, or as much of it as may still be sent."""
        response = file_response(request, content, headers)
        with self._lock:
            if self._bytes_until_down is not None and request.method != "HEAD":
                num_bytes = len(response.body)
                response.headers["Content-Length"] = str(num_bytes)
                response.is_dropped = self._bytes_until_down < num_bytes
                response.body = response.body[: self._bytes_until_down]
                self._bytes_until_down -= len(response.body)
        return response

    def repository(self, kind: str, repo: str) -> Repository:
        if (kind, repo) not in self.repositories:
            raise NotFoundError("RepoNotFound", "Repository not found")
        return self.repositories[kind, repo]

    def commit_of(self, kind: str, repo: str, revision: str) -> Commit:
        commit = self.repository(kind, repo).commit(revision)
        if commit is None:
            raise NotFoundError("RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    @route("GET", rf"{API}(?:/revision/(?P<revision>.+))?")
    def info(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        commit = self.commit_of(kind, repo, revision or "main")
        siblings = [{"rfilename": path} | file_entry(path, commit.files[path]) for path in commit.files]
        return as_json({"id": repo, "sha": commit.id, "lastModified": LAST_MODIFIED, "siblings": siblings})

    @route("GET", rf"{API}/refs")
    def list_refs(self, request: Request, kind: str, repo: str) -> Response:
        groups: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        group_names = {"heads": "branches", "convert": "converts", "tags": "tags", "pr": "pullRequests"}
        for ref, commit_id in self.repository(kind, repo).refs.items():
            _, group, name = ref.split("/", 2)
            groups[group_names[group]].append({"name": name, "ref": ref, "targetCommit": commit_id})
        return as_json(groups)

    @route("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
    def tree(self, request: Request, kind: str, repo: str, revision: str, folder: str) -> Response:
        commit = self.commit_of(kind, repo, revision)
        recursive = request.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        found = [e for e in entries(commit) if inside(e["path"], folder.strip("/"), recursive=recursive)]
        if folder.strip("/") and not found:
            raise NotFoundError("EntryNotFound", f"{folder} does not exist")
        return as_json(found)

    @route("GET", rf"/(?:(?P<kind>dataset|space)s/)?{REPO}/resolve/(?P<revision>refs%2F[^/]+|[^/]+)/(?P<path>.+)")
    def resolve(self, request: Request, kind: str, repo: str, revision: str, path: str) -> Response:
        commit = self.commit_of(kind or "model", repo, revision)
        if path not in commit.files:
            raise NotFoundError("EntryNotFound", f"{path} does not exist", **{"X-Repo-Commit": commit.id})
        content = commit.files[path]
        entry = file_entry(path, content)
        headers = {"X-Repo-Commit": commit.id}
        if "lfs" not in entry:
            return self.send_file(request, content, headers | {"ETag": f'"{entry["oid"]}"'})
        # As on the Hub, large files have another address, which does not repeat the headers of the repository.
        sha256 = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(entry["size"])}
        location = urllib.parse.quote(f"{kind or 'model'}/{repo}/{commit.id}/{path}")
        return Response(302, headers | {"Location": f"{self.cdn_url}/lfs/{location}"})

    @route("GET", rf"/lfs/(?P<kind>\w+)/{REPO}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)")
    def large_file(self, request: Request, kind: str, repo: str, revision: str, path: str) -> Response:
        content = self.repositories[kind, repo].commits[revision].files[path]
        return self.send_file(request, content, {"ETag": f'"{file_entry(path, content)["lfs"]["oid"]}"'})
