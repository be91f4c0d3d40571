"""Artifacts and JSON files: malformed lines are named, writes are atomic, a sidecar means a complete artifact."""

import json
import os

import pytest

from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import sha256
from open_instruct.common.json_files import atomic_write, read_json, read_jsonl, write_jsonl
from open_instruct.common.sidecars import content_hash, read_sidecar, sidecar_path


def test_written_records_are_read_back_unchanged(tmp_path):
    records = [{"id": "1", "prompt": "naïve\n\u2028", "completion": " “yes”"}, {"id": "2"}]
    assert write_jsonl(tmp_path / "a" / "x.jsonl", records) == 2
    assert list(read_jsonl(tmp_path / "a" / "x.jsonl")) == records


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"prompt": "no id"}'])
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"x\.jsonl:2: expected"):
        list(read_jsonl(path, required=["id"]))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as file:
            file.write("half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def make(path, *, text="content", arguments=None, inputs=None):
    artifact = Artifact(path, arguments=arguments or {"lr": 0.1}, inputs=inputs or {})
    with artifact.making() as facts:
        path.write_text(text)
        facts["rows"] = 1
    return artifact


def test_an_artifact_is_done_only_once_its_sidecar_is_there(tmp_path):
    artifact = Artifact(tmp_path / "x", arguments={"lr": 0.1})
    assert not artifact.is_done()
    with artifact.making() as facts:
        with atomic_write(artifact.path) as file:
            file.write("content")
        facts["rows"] = 3
        assert not artifact.is_done()
    assert artifact.is_done()
    assert read_sidecar(artifact.path)["rows"] == 3
    assert not artifact.is_done(overwrite=True)


def test_a_failed_remake_of_a_complete_artifact_leaves_no_sidecar(tmp_path):
    artifact = make(tmp_path / "x")

    def make_half():
        with artifact.making():
            artifact.path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make_half()
    assert not sidecar_path(artifact.path).exists()
    assert not artifact.is_done()


def test_an_artifact_of_other_arguments_is_refused_with_the_arguments_that_differ(tmp_path):
    make(tmp_path / "x", arguments={"lr": 0.1, "epochs": 3})
    other = Artifact(tmp_path / "x", arguments={"lr": 0.2, "epochs": 3})
    with pytest.raises(UserError, match=r"lr was 0\.1, now 0\.2; add --overwrite"):
        other.is_done()


def test_an_artifact_with_a_changed_input_is_not_done(tmp_path):
    source = tmp_path / "source"
    source.write_text("a")
    artifact = make(tmp_path / "x", inputs={"source": source})
    assert artifact.is_done()
    source.write_text("b")
    assert not artifact.is_done()


def test_a_truncated_artifact_is_not_done_even_with_its_old_time(tmp_path):
    artifact = make(tmp_path / "x", text="content")
    stat = artifact.path.stat()
    artifact.path.write_text("conten")
    os.utime(artifact.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not artifact.is_done()


def test_an_artifact_with_another_time_and_the_same_content_is_done(tmp_path):
    artifact = make(tmp_path / "x")
    os.utime(artifact.path, ns=(0, 0))
    assert artifact.is_done()


def test_a_folder_has_only_the_files_of_its_last_making(tmp_path):
    folder = tmp_path / "model"
    artifact = Artifact(folder, arguments={})
    for name in ("old", "weights"):
        with artifact.making_folder() as (made, _):
            (made / name).write_text("w")
    assert sorted(os.listdir(folder)) == ["meta.json", "weights"]
    assert artifact.is_done()


def test_content_hash_depends_on_content_alone(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name
        with Artifact(folder, arguments={"name": name}).making_folder() as (made, _):
            (made / "weights").write_text("w")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    (tmp_path / "b" / "weights").write_text("v")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_malformed_json_is_named_by_file_and_line(tmp_path):
    (tmp_path / "x.json").write_text('{\n"a": }')
    with pytest.raises(UserError, match=r"x\.json:2: not JSON"):
        read_json(tmp_path / "x.json")


def test_a_sidecar_has_files_versions_and_peak_memory(tmp_path):
    meta = json.loads(sidecar_path(make(tmp_path / "x").path).read_text())
    assert meta["versions"]["torch"]
    assert set(meta["files"]) == {"x"}
    assert meta["peak_memory_bytes"] > 0


def test_files_that_were_hashed_while_written_are_read_again_only_if_they_changed(tmp_path):
    folder, hashed = tmp_path / "x", {}
    with Artifact(folder, {}).making_folder(hashed=hashed) as (made, _):
        for name in ("kept", "changed"):
            (made / name).write_text(name)
            hashed[name] = {"sha256": "given", "bytes": len(name), "mtime_ns": (made / name).stat().st_mtime_ns}
        (made / "changed").write_text("changed since")
    files = read_sidecar(folder)["files"]
    assert files["kept"]["sha256"] == "given"
    assert files["changed"]["sha256"] == sha256(folder / "changed")
