"""A Hub on this machine: the part of the Hub's HTTP protocol that huggingface_hub reads with.

Serves a test's repositories to the real clients, with network failures on demand:

    with LoopbackHub() as hub:
        commit = hub.add("dataset", "nyu-mll/glue", {"rte/train.parquet": content}, ref="refs/convert/parquet")
        subprocess.run([...], env=os.environ | hub.environment(cache))       # a script that reads $HF_ENDPOINT
        hub.point_clients_here(monkeypatch, cache)                           # or the clients in this process
        hub.go_down(after_bytes=1000)                                        # cut in the middle of a file
        hub.come_up()

`hub.requests` records the requests. To extend the protocol, add a method with `@route` to a subclass.
"""

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopback_http import ROUTES, LoopbackServer, Request, Response, as_json, error, handler_of, route
from loopback_repositories import Commit, Repository, entries, file_entry, inside

DATE = "2024-01-01T00:00:00.000Z"
REPO = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
API = rf"/api/(?P<kind>model|dataset|space)s/{REPO}"


class LoopbackHub(LoopbackServer):
    def __init__(self) -> None:
        super().__init__(handler_of(self))
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.page_size = 1000
        """Entries of a tree listing in one response."""
        self._down_after_requests: int | None = None
        self._down_after_bytes: int | None = None
        self._failures: list[tuple[re.Pattern[str], int]] = []
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
        title: str = "Add files",
    ) -> str:
        """Commit `files` on top of `ref` (a branch, or a full `refs/...`); returns the commit's id."""
        repository = self.repositories.setdefault((kind, repo), Repository())
        name = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
        base = repository.commit(name)
        content = dict(base.files) if base else {}
        content |= {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        number = len(repository.commits)
        commit_id = commit_id or hashlib.sha1(f"{kind} {repo} {name} {number}".encode()).hexdigest()
        repository.commits[commit_id] = Commit(commit_id, content, title)
        repository.refs[name] = commit_id
        return commit_id

    def tag(self, kind: str, repo: str, name: str, revision: str = "main") -> None:
        repository = self.repositories[kind, repo]
        commit = repository.commit(revision)
        assert commit is not None, f"{repo} has no {revision}"
        repository.refs[f"refs/tags/{name}"] = commit.id

    def environment(self, cache: Path) -> dict[str, str]:
        """Environment variables that point the clients of another process here, with all caches in `cache`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def point_clients_here(self, monkeypatch: Any, cache: Path) -> None:
        """Point the clients of this process here; they read their environment on import only."""
        import huggingface_hub.hf_api
        from huggingface_hub import HfFileSystem, constants

        for name, value in self.environment(cache).items():
            monkeypatch.setenv(name, value)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + template)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.url)
        HfFileSystem.clear_instance_cache()

    def go_down(self, *, after_requests: int | None = None, after_bytes: int | None = None) -> None:
        """Drop every connection: now, or after so many more requests, or more bytes of files."""
        with self._lock:
            self._down_after_bytes = after_bytes
            self._down_after_requests = after_requests if (after_requests, after_bytes) != (None, None) else 0

    def come_up(self) -> None:
        with self._lock:
            self._down_after_requests = self._down_after_bytes = None

    def fail(self, pattern: str, *, status: int = 503, times: int = 1) -> None:
        """Respond to the next `times` requests whose path matches `pattern` with `status`."""
        with self._lock:
            self._failures += [(re.compile(pattern), status)] * times

    def requests_of(self, pattern: str) -> list[Request]:
        return [request for request in self.requests if re.search(pattern, request.path)]

    # -- called by the server -----------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response | None:
        """The response; None to drop the connection."""
        with self._lock:
            self.requests.append(request)
            if self._down_after_requests is not None:
                self._down_after_requests -= 1
                if self._down_after_requests < 0:
                    return None
            for index, (pattern, status) in enumerate(self._failures):
                if pattern.search(request.path):
                    del self._failures[index]
                    return error(status, "Injected", "injected failure")
        for method, pattern, handler in ROUTES:
            match = pattern.fullmatch(request.path)
            if match and method == request.method.replace("HEAD", "GET"):
                named = {name: urllib.parse.unquote(value or "") for name, value in match.groupdict().items()}
                return handler(self, request, **named)
        return error(404, "", f"{request.method} {request.path} is not served by this hub")

    def count_bytes(self, wanted: int) -> int:
        """Number of the `wanted` bytes of a file that may still be sent."""
        with self._lock:
            if self._down_after_bytes is None:
                return wanted
            allowed = min(wanted, self._down_after_bytes)
            self._down_after_bytes -= allowed
            if allowed < wanted:
                self._down_after_requests = 0
            return allowed

    def commit_or_error(self, kind: str, repo: str, revision: str) -> Commit | Response:
        repository = self.repositories.get((kind, repo))
        if repository is None:
            return error(404, "RepoNotFound", "Repository not found")
        commit = repository.commit(revision)
        return commit or error(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    @route("GET", rf"{API}(?:/revision/(?P<revision>.+))?")
    def info(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        commit = self.commit_or_error(kind, repo, revision or "main")
        if isinstance(commit, Response):
            return commit
        siblings = [{"rfilename": path} | file_entry(path, commit.files[path]) for path in commit.files]
        about = {"_id": commit.id, "id": repo, "sha": commit.id, "private": False, "gated": False, "disabled": False}
        about |= {"lastModified": DATE, "createdAt": DATE, "downloads": 0, "likes": 0, "tags": []}
        return as_json(about | {"modelId": repo, "author": repo.split("/")[0], "siblings": siblings})

    @route("GET", rf"{API}/refs")
    def list_refs(self, request: Request, kind: str, repo: str) -> Response:
        commit = self.repositories.get((kind, repo))
        if commit is None:
            return error(404, "RepoNotFound", "Repository not found")
        groups: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        places = {"heads": "branches", "convert": "converts", "tags": "tags", "pr": "pullRequests"}
        for ref, commit_id in commit.refs.items():
            _, group, name = ref.split("/", 2)
            groups[places[group]].append({"name": name, "ref": ref, "targetCommit": commit_id})
        return as_json(groups)

    @route("GET", rf"{API}/commits/(?P<revision>.+)")
    def list_commits(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        commit = self.commit_or_error(kind, repo, revision)
        if isinstance(commit, Response):
            return commit
        return as_json([{"id": commit.id, "title": commit.title, "message": "", "date": DATE, "authors": []}])

    @route("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?")
    def tree(self, request: Request, kind: str, repo: str, revision: str, folder: str) -> Response:
        commit = self.commit_or_error(kind, repo, revision)
        if isinstance(commit, Response):
            return commit
        recursive = request.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        found = [e for e in entries(commit) if inside(e["path"], folder.strip("/"), recursive=recursive)]
        if folder.strip("/") and not found:
            return error(404, "EntryNotFound", f"{folder} does not exist")
        start = int(request.query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.page_size < len(found):
            query = urllib.parse.urlencode({"recursive": recursive, "cursor": start + self.page_size})
            headers["Link"] = f'<{self.url}{urllib.parse.quote(request.path, safe="/%")}?{query}>; rel="next"'
        return as_json(found[start : start + self.page_size], **headers)

    @route("POST", rf"{API}/paths-info/(?P<revision>.+)")
    def paths_info(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        commit = self.commit_or_error(kind, repo, revision)
        if isinstance(commit, Response):
            return commit
        if "json" in request.headers.get("Content-Type", ""):
            wanted = json.loads(request.body)["paths"]
        else:
            wanted = urllib.parse.parse_qs(request.body.decode())["paths"]
        return as_json([entry for entry in entries(commit) if entry["path"] in wanted])

    @route("GET", rf"/(?:(?P<kind>dataset|space)s/)?{REPO}/resolve/(?P<revision>refs%2F[^/]+|[^/]+)/(?P<path>.+)")
    def resolve(self, request: Request, kind: str, repo: str, revision: str, path: str) -> Response:
        commit = self.commit_or_error(kind or "model", repo, revision)
        if isinstance(commit, Response):
            return commit
        if path not in commit.files:
            missing = error(404, "EntryNotFound", f"{path} does not exist")
            missing.headers["X-Repo-Commit"] = commit.id
            return missing
        content = commit.files[path]
        entry = file_entry(path, content)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if "lfs" not in entry:
            return Response(200, headers | {"ETag": f'"{entry["oid"]}"'}, content)
        # As on the Hub, large files have another address, which does not repeat the headers of the repository.
        sha256 = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(entry["size"])}
        place = urllib.parse.quote(f"{kind or 'model'}/{repo}/{commit.id}/{path}")
        return Response(302, headers | {"Location": f"{self.cdn_url}/lfs/{place}"})

    @route("GET", rf"/lfs/(?P<kind>\w+)/{REPO}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)")
    def large_file(self, request: Request, kind: str, repo: str, revision: str, path: str) -> Response:
        content = self.repositories[kind, repo].commits[revision].files[path]
        return Response(
            200, {"ETag": f'"{file_entry(path, content)["lfs"]["oid"]}"', "Accept-Ranges": "bytes"}, content
        )
