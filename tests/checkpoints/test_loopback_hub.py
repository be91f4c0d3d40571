"""The loopback Hub serves the real clients: listings, refs, resumed downloads."""

from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LoopbackHub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, tmp_path / "cache")
        yield hub


def test_files_refs_and_commits_are_listed(hub):
    first = hub.add("model", "org/m", {"config.json": "{}", "sub/model.safetensors": b"x" * 10})
    second = hub.add("model", "org/m", {"config.json": '{"a": 1}'}, ref="step1000-tokens4B")
    hub.tag("model", "org/m", "v1")
    hub.page_size = 1
    api = HfApi()
    assert sorted(api.list_repo_files("org/m")) == ["config.json", "sub/model.safetensors"]
    refs = api.list_repo_refs("org/m")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "step1000-tokens4B": second}
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert api.model_info("org/m", revision="v1", files_metadata=True).sha == first
    (file,) = api.get_paths_info("org/m", ["sub/model.safetensors"])
    assert file.lfs.size == 10
    assert [c.commit_id for c in api.list_repo_commits("org/m", revision=second)] == [second]


def test_missing_repository_revision_and_file_raise_the_hubs_errors(hub):
    hub.add("model", "org/m", {"config.json": "{}"})
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/m", "config.json", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/m", "none.json")


def test_snapshot_is_downloaded_once(hub, tmp_path):
    content = bytes(range(256)) * 1000
    large = tmp_path / "large.bin"
    large.write_bytes(content)
    commit = hub.add("dataset", "org/d", {"README.md": "hello", "data/large.bin": large})
    folder = snapshot_download("org/d", repo_type="dataset")
    assert folder.endswith(commit)
    assert Path(folder, "data", "large.bin").read_bytes() == content
    before = len(hub.requests_of("/lfs/"))
    snapshot_download("org/d", repo_type="dataset")
    assert len(hub.requests_of("/lfs/")) == before


def test_dropped_download_is_resumed_at_its_last_byte(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda _: hub.come_up())
    content = bytes(range(256)) * 4000
    hub.add("model", "org/m", {"model.bin": content})
    hub.go_down(after_bytes=300_000)
    assert Path(hf_hub_download("org/m", "model.bin")).read_bytes() == content
    assert [r.range for r in hub.requests_of("/lfs/") if r.method == "GET"] == [None, "bytes=300000-"]


def test_download_from_a_hub_that_stays_down_fails(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add("model", "org/m", {"model.bin": b"x" * 1000})
    hub.go_down(after_requests=1)
    with pytest.raises(httpx.RemoteProtocolError):
        hf_hub_download("org/m", "model.bin")
    hub.come_up()
    assert Path(hf_hub_download("org/m", "model.bin")).read_bytes() == b"x" * 1000


def test_injected_failure_occurs_once(hub):
    hub.add("dataset", "org/d", {"a.txt": "text"})
    hub.fail("/tree/", status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        HfFileSystem(endpoint=hub.url).ls("datasets/org/d", detail=False)
    assert HfFileSystem(endpoint=hub.url).ls("datasets/org/d", detail=False) == ["datasets/org/d/a.txt"]
