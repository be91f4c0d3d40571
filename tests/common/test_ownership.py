"""What may be replaced: this project's own outputs, finished, unfinished or damaged; never a user's file."""

import os
import shutil
from pathlib import Path

import pytest

from open_instruct.common import hashing, ownership, sidecars
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, write_json
from open_instruct.common.sidecars import content_hash, has_sidecar, sidecar_path


def make(path: Path, text: str = "w", **more) -> Artifact:
    artifact = Artifact(path, {}, **more)
    with artifact.making() as _, atomic_write(path) as file:
        file.write(text)
    return artifact


def make_folder(path: Path, text: str = "w") -> Artifact:
    artifact = Artifact(path, {})
    with artifact.making_folder() as (made, _):
        (made / "weights").write_text(text)
    return artifact


def test_a_users_meta_json_is_no_sidecar(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_json(folder / "meta.json", {"title": "mine", "files": []})
    assert not has_sidecar(folder)
    with pytest.raises(UserError, match=r"has meta\.json, not written by this project"):
        make_folder(folder)


def test_a_link_at_the_place_of_a_written_file_is_a_users(tmp_path):
    artifact = make_folder(tmp_path / "model")
    (tmp_path / "elsewhere").write_text("w")
    (artifact.path / "weights").unlink()
    (artifact.path / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has weights, not written"):
        make_folder(artifact.path)
    assert (tmp_path / "elsewhere").read_text() == "w"


def test_an_output_that_is_a_link_to_a_folder_is_made_where_it_leads(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "big disk")
    for text in ("1", "2"):
        make_folder(tmp_path / "model", text)
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "big disk" / "weights").read_text() == "2"


@pytest.mark.parametrize("folder", ["/", "~", ".", "base_dir"])
def test_folders_that_hold_everything_are_no_outputs(folder, tmp_path):
    path = tmp_path if folder == "base_dir" else Path(folder).expanduser()
    with pytest.raises(UserError, match="cannot be an output"):
        make_folder(path)


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, expected a folder"):
        make(tmp_path / "file" / "sub" / "x")


def test_an_output_and_its_input_do_not_overlap(tmp_path):
    model = make_folder(tmp_path / "model").path
    for path in (model, model / "inside"):
        with pytest.raises(UserError, match="overlap"):
            Artifact(path, {}, inputs={"model": model}).is_done(overwrite=True)


def test_an_unfinished_file_is_replaced_and_one_put_in_its_place_is_not(tmp_path):
    path = tmp_path / "x"

    def interrupted():
        with Artifact(path, {}).making():
            with atomic_write(path) as file:
                file.write("unfinished")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    path.rename(tmp_path / "aside")
    path.write_text("mine")
    with pytest.raises(UserError, match="x was not written by this project"):
        make(path)
    assert path.read_text() == "mine"
    (tmp_path / "aside").rename(path)
    assert make(path, "finished").is_done()
    assert sorted(os.listdir(tmp_path)) == ["x", "x.meta.json"]


def test_a_killed_replacement_leaves_the_old_or_the_new_version(tmp_path):
    artifact = make_folder(tmp_path / "model", "old")
    artifact.path.rename(ownership.replaced_version(artifact.path))  # killed between the two renames
    with pytest.raises(RuntimeError), artifact.making_folder():
        raise RuntimeError
    assert (artifact.path / "weights").read_text() == "old"
    assert artifact.is_done()


@pytest.mark.parametrize("content", ["damaged", None])
def test_a_damaged_output_is_made_again(content, tmp_path):
    for make_one, path in ((make, tmp_path / "x"), (make_folder, tmp_path / "model")):
        make_one(path)
        if content:
            sidecar_path(path).write_text(content)
        ownership.mark_as_damaged(path)
        assert not has_sidecar(path)
        if path.is_dir():
            (path / "thesis.txt").write_text("mine")
            with pytest.raises(UserError, match=r"has thesis\.txt"):
                make_one(path)
            (path / "thesis.txt").unlink()
        assert make_one(path).is_done()


def test_a_users_file_in_the_place_of_a_sidecar_is_not_removed_as_damage(tmp_path):
    path = tmp_path / "x"
    path.write_text("mine")
    write_json(sidecar_path(path), {"title": "mine"})
    ownership.mark_as_damaged(path)
    assert sidecar_path(path).is_file()
    with pytest.raises(UserError, match="none of this project"):
        ownership.remove_own_file(path)


def test_an_output_never_becomes_another_models(tmp_path):
    for name in ("a", "b"):
        make_folder(tmp_path / name, name)
    shutil.copytree(tmp_path / "a", tmp_path / "copy of a")
    make(tmp_path / "x", inputs={"model": tmp_path / "a"})
    other = Artifact(tmp_path / "x", {}, inputs={"model": tmp_path / "b"})
    with pytest.raises(UserError, match="was made from other files: model was a, now b; give another output"):
        other.is_done()
    assert not other.is_done(overwrite=True)
    assert Artifact(tmp_path / "x", {}, inputs={"model": tmp_path / "copy of a"}).is_done()


@pytest.mark.parametrize("role", ["tokenizer", "config", "validation_file"])
def test_with_and_without_an_input_that_an_option_adds_are_two_outputs(tmp_path, role):
    for name in ("model", role):
        make_folder(tmp_path / name, name)
    without = {"model": tmp_path / "model"}
    for one, other in ((without, without | {role: tmp_path / role}), (without | {role: tmp_path / role}, without)):
        path = tmp_path / f"of {len(one)}"
        make(path, inputs=one)
        with pytest.raises(UserError, match=rf"was made from other files: {role} was "):
            Artifact(path, {}, inputs=other).is_done()


def test_a_folder_of_a_users_is_read_once(tmp_path, monkeypatch):
    folder, read = tmp_path / "model", []
    folder.mkdir()
    (folder / "weights").write_text("w")
    sha256 = hashing.sha256
    monkeypatch.setattr(hashing, "sha256", lambda path: read.append(path.name) or sha256(path))
    first = content_hash(folder)
    assert content_hash(folder) == first
    assert read == ["weights"]
    (folder / "weights").write_text("other")
    assert content_hash(folder) != first
    assert sorted(os.listdir(folder)) == ["weights"]


def test_without_a_cache_of_hashes_a_folder_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sidecars, "write_json", refuse)
    assert content_hash(tmp_path / "model") == content_hash(tmp_path / "model")
