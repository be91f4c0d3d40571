"""Downloads of native checkpoints: complete and correct, or an error; resumed; never a wrong file."""

import hashlib
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
import torch
from loopback_store import LoopbackStore
from native_downloads import folder_of, is_done, run_download, run_schedule, skip_waiting, store_of, torch_file
from safetensors.torch import save

from open_instruct.checkpoints import download
from open_instruct.checkpoints.http_probe import parse_checksum
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    skip_waiting(monkeypatch)


@pytest.mark.slow
def test_random_faults_end_in_the_right_file_or_an_error(base_dir, monkeypatch):
    completed = []
    for seed in range(100):
        monkeypatch.setenv("base_dir", str(base_dir / str(seed)))
        completed.append(run_schedule(base_dir / str(seed), seed))
    # Both outcomes occurred.
    assert 0.5 < sum(completed) / len(completed) < 1


def faults(*names: str | None):
    """One of `names` per request, then none."""
    remaining = list(names)
    return lambda path: remaining.pop(0) if remaining else None


def ranges(store: LoopbackStore) -> list[str]:
    """Range headers of the requests for model.pt."""
    return [header for _, path, header in store.requests if header and path.endswith("model.pt")]


def test_dropped_connection_is_resumed_in_the_same_run(base_dir):
    with store_of(1000) as store:
        # HEAD of both files, config.yaml, then model.pt is cut after a third of it, twice.
        store.next_fault = faults(None, None, None, "cut", "cut")
        run_download(base_dir, store, 1000)
        num_bytes = len(store.files[f"{folder_of(1000)}/model.pt"])
        third = num_bytes // 3
        assert ranges(store) == [f"bytes={third}-", f"bytes={third + (num_bytes - third) // 3}-"]
    assert is_done(store, 1000)


def test_dropped_connection_is_resumed_in_the_next_run(base_dir):
    with store_of(1000) as store:
        store.next_fault = faults(None, None, None, "cut", "drop")
        with pytest.raises(UserError, match=r"checkpoint-1000: http.*model\.pt: .*run the same command again"):
            run_download(base_dir, store, 1000, retries=1)
        assert not is_done(store, 1000)
        run_download(base_dir, store, 1000)
        assert ranges(store)[-1].startswith("bytes=")
        assert is_done(store, 1000)


def test_checkpoints_go_to_output_dir(base_dir):
    with store_of(1000) as store:
        run_download(base_dir, store, 1000, output_dir=base_dir / "elsewhere")
        assert (base_dir / "elsewhere" / "checkpoint-1000" / "model.pt").is_file()
        assert read_sidecar(base_dir / "elsewhere" / "checkpoint-1000")["identity"]["step"] == 1000
        assert not paths.native_checkpoint("olmo1b", "checkpoint-1000").exists()


def test_partial_file_is_discarded_after_the_file_changed_in_the_store(base_dir):
    with store_of(1000) as store:
        store.next_fault = faults(None, None, None, "cut", "drop")
        with pytest.raises(UserError):
            run_download(base_dir, store, 1000, retries=1)
        store.files[f"{folder_of(1000)}/model.pt"] = torch_file(seed=7)
        run_download(base_dir, store, 1000)
        assert is_done(store, 1000)


@pytest.mark.parametrize("checksum", [None, "md5"])
@pytest.mark.parametrize("name", ["model.pt", "config.yaml"])
def test_truncated_file_of_consistent_length_and_checksum_is_refused(base_dir, name, checksum):
    with store_of(1000, checksum=checksum) as store:
        path = f"{folder_of(1000)}/{name}"
        whole = store.files[path]
        store.files[path] = whole[: len(whole) // 2]
        # Length and checksum are those of half the file: only its content shows that it is truncated.
        with pytest.raises(UserError, match="cut"):
            run_download(base_dir, store, 1000)
        assert not is_done(store, 1000)


def test_missing_files_are_named_before_anything_is_downloaded(base_dir):
    with store_of(1000) as store:
        with pytest.raises(
            UserError, match=r"step2000-unsharded: the store has no config\.yaml, no model\.pt or"
        ) as error:
            run_download(base_dir, store, 1000, 2000, 3000)
        assert "step3000" in str(error.value)
        assert {method for method, *_ in store.requests} == {"HEAD"}
    assert not (base_dir / "output" / "olmo1b_ckpts").exists()


def test_optimizer_state_is_downloaded_only_on_request(base_dir):
    with store_of(1000) as store:
        store.files |= {
            f"{folder_of(1000)}/{name}.pt": torch_file(num_values=n) for n, name in ((8, "optim"), (9, "train"))
        }
        run_download(base_dir, store, 1000)
        folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
        assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "meta.json", "model.pt"]
        run_download(base_dir, store, 1000, with_optimizer=True, overwrite=True)
        assert sorted(p.name for p in folder.iterdir())[2:] == ["model.pt", "optim.pt", "train.pt"]


def test_checkpoints_in_safetensors_are_downloaded(base_dir):
    tensors = save({"a": torch.zeros(3)})
    with store_of(1000, checksum=None) as store:
        del store.files[f"{folder_of(1000)}/model.pt"]
        store.files[f"{folder_of(1000)}/model.safetensors"] = tensors
        run_download(base_dir, store, 1000)
        folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
        assert (folder / "model.safetensors").read_bytes() == tensors
        assert read_sidecar(folder)["downloaded"]["model.safetensors"]["verified_by"] == "two equal copies"


def test_sidecar_records_requested_step_source_and_verification(base_dir):
    with store_of(1000, checksum=None) as store:
        run_download(base_dir, store, 1000, nearest=True, steps=("1200",))
        meta = read_sidecar(paths.native_checkpoint("olmo1b", "checkpoint-1000"))
        assert (meta["identity"]["step"], meta["step_asked_for"]) == (1000, 1200)
        model = meta["downloaded"]["model.pt"]
        assert model["url"] == f"{store.url}/{folder_of(1000)}/model.pt"
        assert model["verified_by"] == "crc32 of every tensor"
        store.requests.clear()
        run_download(base_dir, store, 1000)
        assert store.requests == []


def test_same_weights_under_two_steps_are_refused_before_anything_is_downloaded(base_dir):
    with store_of(1000, 2000, 3000) as store:
        store.files[f"{folder_of(3000)}/model.pt"] = store.files[f"{folder_of(1000)}/model.pt"]
        with pytest.raises(
            UserError, match=r"checkpoint-3000 has the same model\.pt as checkpoint-1000 \(md5 .*--allow"
        ):
            run_download(base_dir, store, 1000, 2000, 3000)
        assert {method for method, *_ in store.requests} == {"HEAD"}
        run_download(base_dir, store, 1000, 2000, 3000, allow_duplicates=True, download_in_parallel=True)
        assert all(is_done(store, step) for step in (1000, 2000, 3000))


def test_other_checkpoints_are_downloaded_after_one_failed(base_dir):
    with store_of(1000, 2000, checksum=None) as store:
        path = f"{folder_of(1000)}/model.pt"
        store.files[path] = store.files[path][:-100]
        with pytest.raises(UserError, match="1 of 2 failed: checkpoint-1000"):
            run_download(base_dir, store, 1000, 2000)
        assert is_done(store, 2000)


def test_too_little_disk_space_is_refused_before_anything_is_downloaded(base_dir, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with store_of(1000) as store, pytest.raises(UserError, match=r"0\.0 GB free, 0\.1 GB are needed"):
        run_download(base_dir, store, 1000)


def test_files_from_elsewhere_are_verified_and_resumed_where_the_user_says_so(base_dir):
    folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
    partial = folder.with_name(".partial-checkpoint-1000")
    partial.mkdir(parents=True)
    with store_of(1000) as store:
        whole = store.files[f"{folder_of(1000)}/model.pt"]
        (partial / "model.pt.part").write_bytes(whole[:5000])
        (partial / "config.yaml").write_bytes(b"<html>404</html>")
        with pytest.raises(UserError, match=r"was not written by this project.*touch .*/\.unfinished"):
            run_download(base_dir, store, 1000)
        assert (partial / "model.pt.part").read_bytes() == whole[:5000]
        (partial / ".unfinished").touch()
        run_download(base_dir, store, 1000)
        assert is_done(store, 1000)
        assert ranges(store) == ["bytes=5000-"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"has notes\.txt, not written by this project"):
        run_download(base_dir, store, 1000, overwrite=True)


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")
def test_wget_script_downloads_the_same_files(base_dir):
    with store_of(1000, 2000) as store:
        run_download(base_dir, store, 1000, 2000, get_wget_list=True)
        assert store.requests == []
        script = base_dir / "output" / "olmo1b_wget.sh"
        for _ in range(2):
            subprocess.run(["bash", str(script)], check=True, capture_output=True)
        run_download(base_dir, store, 1000, 2000)
        assert is_done(store, 1000)
        assert is_done(store, 2000)
        assert len([1 for method, path, _ in store.requests if method == "GET" and path.endswith("model.pt")]) == 2


def test_wget_script_for_a_relative_output_dir_runs_from_anywhere(base_dir, monkeypatch):
    monkeypatch.chdir(base_dir)
    with store_of(1000) as store:
        run_download(base_dir, store, 1000, get_wget_list=True, output_dir=Path("elsewhere"))
    assert f"get {base_dir / 'elsewhere'}/.partial-checkpoint-1000 " in (base_dir / "output/olmo1b_wget.sh").read_text()


def test_invalid_and_contradictory_options_are_named(base_dir):
    with store_of(1000) as store:
        for options, message in (
            (
                {"steps": ("1000",), "ckpt_amount": 1},
                "choose checkpoints by one of --ckpt_amount, --steps and --tokens",
            ),
            ({"steps": ("1000", "mian")}, "expected numbers or main, each once, found mian"),
            ({"steps": ("1000,1000",)}, "each once, found 1000, 1000"),
            ({"steps": ("1500",)}, r"no checkpoint of step 1500 \(nearest: 1000\)"),
            ({"ckpt_amount": 2}, "ckpt_amount is 2, expected 1 to 1"),
            ({"steps": ("1000",), "from_hub": True}, "one of --ckpt_csv and --from_hub"),
        ):
            with pytest.raises(UserError, match=message):
                run_download(base_dir, store, 1000, **options)


def test_connection_that_stalls_forever_is_given_up(base_dir):
    with store_of(1000) as store:
        store.next_fault = lambda path: "stall" if path.endswith("model.pt") else None
        with pytest.raises(UserError, match=r"gave up after 2 failure\(s\)"):
            run_download(base_dir, store, 1000, retries=1)


MD5 = hashlib.md5(b"x")
SHA256 = hashlib.sha256(b"x")


def base64_of(hashed) -> str:
    return b64encode(hashed.digest()).decode()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-linked-etag": f'"{SHA256.hexdigest()}"', "etag": '"1"'}, ("sha256", SHA256.hexdigest())),
        ({"x-amz-checksum-sha256": base64_of(SHA256), "content-md5": base64_of(MD5)}, ("sha256", SHA256.hexdigest())),
        ({"content-md5": base64_of(MD5)}, ("md5", MD5.hexdigest())),
        ({"x-goog-hash": f"crc32c=n03x6A==,md5={base64_of(MD5)}"}, ("md5", MD5.hexdigest())),
        ({"etag": f'"{MD5.hexdigest()}"'}, ("md5", MD5.hexdigest())),
        ({"etag": f'"{MD5.hexdigest()}-3"'}, None),  # of the parts of a multipart upload
        ({"etag": f'"{MD5.hexdigest()}"', "x-amz-server-side-encryption": "aws:kms"}, None),
        ({"content-md5": base64_of(MD5), "content-range": "bytes 0-0/9"}, None),
    ],
)
def test_checksums_of_common_stores_are_recognised(headers, expected):
    assert parse_checksum(httpx.Headers(headers)) == expected
