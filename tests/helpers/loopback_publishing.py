"""The requests by which huggingface_hub publishes, added to the loopback Hub: repositories, LFS uploads, commits."""

import base64
import hashlib
import json

from loopback_http import Request, Response, as_json, error, route
from loopback_hub import API, REPO, LoopbackHub
from loopback_repositories import LFS_SUFFIXES, Repository


class PublishingHub(LoopbackHub):
    """Accepts uploads with the token `TOKEN`."""

    TOKEN = "hf_loopback"

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, bytes] = {}

    def refusal(self, request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {self.TOKEN}":
            return None
        return error(401, "", "Invalid username or password.")

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self, request: Request) -> Response:
        assert json.loads(request.body)["content"].startswith("---\n"), "a model card begins with its YAML"
        return as_json({"errors": [], "warnings": []})

    @route("POST", "/api/repos/create")
    def create(self, request: Request) -> Response:
        if refused := self.refusal(request):
            return refused
        body = json.loads(request.body)
        owner, name = body.get("organization"), body["name"]
        repo = f"{owner}/{name}" if owner else name
        about = {"url": f"{self.url}/{repo}", "name": repo, "id": repo}
        if ("model", repo) in self.repositories:
            return as_json(about | {"error": "You already created this model repo"}, status=409)
        self.repositories["model", repo] = Repository()
        return as_json(about)

    @route("POST", rf"{API}/preupload/(?P<revision>.+)")
    def preupload(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        files = [file["path"] for file in json.loads(request.body)["files"]]
        modes = {path: "lfs" if path.endswith(LFS_SUFFIXES) else "regular" for path in files}
        return as_json({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    @route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request, repo: str) -> Response:
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.url}/upload/{entry['oid']}", "header": {}}}}
            for entry in json.loads(request.body)["objects"]
        ]
        return as_json({"transfer": "basic", "objects": objects})

    @route("PUT", r"/upload/(?P<oid>[0-9a-f]{64})")
    def upload(self, request: Request, oid: str) -> Response:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return error(400, "", "the content does not match its hash")
        self.uploads[oid] = request.body
        return Response(200, {})

    @route("POST", rf"{API}/commit/(?P<revision>.+)")
    def commit(self, request: Request, kind: str, repo: str, revision: str) -> Response:
        if refused := self.refusal(request):
            return refused
        lines = [json.loads(line) for line in request.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        files |= {
            line["value"]["path"]: self.uploads[line["value"]["oid"]] for line in lines if line["key"] == "lfsFile"
        }
        commit_id = self.add("model", repo, files, ref=revision)
        return as_json({"commitUrl": f"{self.url}/{repo}/commit/{commit_id}", "commitOid": commit_id})
