"""Downloads of native checkpoints: whole and right, or not done; resumed; never another file under their name."""

import csv
import io
import random
import shutil
import subprocess

import pytest
import torch
from loopback_store import LoopbackStore, random_schedule
from olmo.config import TokenizerConfig, TrainConfig
from omegaconf import OmegaConf
from safetensors.torch import save

from open_instruct import download_olmo_ckpts as download
from open_instruct.checkpoints import http_store
from open_instruct.common import paths
from open_instruct.common.artifacts import read_sidecar, sidecar_path
from open_instruct.common.errors import UserError

CONFIG = OmegaConf.to_yaml(TrainConfig(tokenizer=TokenizerConfig(identifier="x"))).encode()


def torch_file(seed: int = 0, *, num_values: int = 4000) -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.randn(num_values, generator=torch.Generator().manual_seed(seed))}, file)
    return file.getvalue()


def folder_of(step: int) -> str:
    return f"ai2-llm/olmo-small/w1r5xfzt/step{step}-unsharded"


def store_of(*steps: int, **options) -> LoopbackStore:
    files = {}
    for step in steps:
        files |= {f"{folder_of(step)}/config.yaml": CONFIG, f"{folder_of(step)}/model.pt": torch_file(step)}
    return LoopbackStore(files, **options)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    patience = http_store.Patience
    monkeypatch.setattr(download, "Patience", lambda **options: patience(backoff_seconds=0.0, **options))
    # The tokenizer takes a second to write, and is not what these tests are about.
    monkeypatch.setattr(download, "make_tokenizer", lambda family: None)


def run(base_dir, store: LoopbackStore, *steps: int, **options) -> None:
    path = base_dir / "list.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("Step", "Checkpoint Directory"))
        rows.writerows((step, f"{store.url}/{folder_of(step)}/") for step in steps)
    choice = {} if "steps" in options or "ckpt_amount" in options else {"steps": tuple(map(str, steps))}
    download.main(download.Args(ckpt_csv=path, timeout_seconds=0.1, **choice, **options))


def is_right(store: LoopbackStore, step: int) -> bool:
    """Whether checkpoint counts as done; if it does, its files must be those of the store."""
    folder = paths.native_checkpoint("olmo1b", f"checkpoint-{step}")
    if not sidecar_path(folder).is_file():
        return False
    for name in ("config.yaml", "model.pt"):
        assert (folder / name).read_bytes() == store.files[f"{folder_of(step)}/{name}"]
    return True


def run_schedule(base_dir, seed: int) -> bool:
    """One random schedule of faults, a second run if the first failed; returns whether the first one brought all."""
    rng = random.Random(seed)
    base_dir.mkdir()
    with store_of(1000, checksum=rng.choice((None, "md5", "sha256"))) as store:
        store.next_fault = random_schedule(rng)
        try:
            run(base_dir, store, 1000, retries=4)
        except UserError as error:
            message = str(error)
        else:
            assert is_right(store, 1000)
            return True
        assert store.url in message
        assert not is_right(store, 1000)
        store.next_fault = lambda path: None
        run(base_dir, store, 1000)
        assert is_right(store, 1000)
        return False


def test_random_faults_end_in_the_right_file_or_in_an_error(base_dir, monkeypatch):
    brought = []
    for seed in range(100):
        monkeypatch.setenv("base_dir", str(base_dir / str(seed)))
        brought.append(run_schedule(base_dir / str(seed), seed))
    # Most schedules are survived, and some cannot be: both ends were seen.
    assert 0.5 < sum(brought) / len(brought) < 1


def faults(*names: str | None):
    """One of `names` a request, then none."""
    left = list(names)
    return lambda path: left.pop(0) if left else None


def ranges(store: LoopbackStore) -> list[str]:
    return [asked for _, path, asked in store.requests if asked and path.endswith("model.pt")]


def test_a_break_is_resumed_in_the_same_run(base_dir):
    with store_of(1000) as store:
        # HEAD of both files, config.yaml, then model.pt is cut after a third of it, twice.
        store.next_fault = faults(None, None, None, "cut", "cut")
        run(base_dir, store, 1000)
        num_bytes = len(store.files[f"{folder_of(1000)}/model.pt"])
        third = num_bytes // 3
        assert ranges(store) == [f"bytes={third}-", f"bytes={third + (num_bytes - third) // 3}-"]
    assert is_right(store, 1000)


def test_a_break_is_resumed_in_the_next_run(base_dir):
    with store_of(1000) as store:
        store.next_fault = faults(None, None, None, "cut", "drop")
        with pytest.raises(UserError, match=r"checkpoint-1000: http.*model\.pt: .*run the same command again"):
            run(base_dir, store, 1000, retries=1)
        assert not is_right(store, 1000)
        run(base_dir, store, 1000)
        assert ranges(store)[-1].startswith("bytes=")
        assert is_right(store, 1000)


def test_a_part_of_a_file_that_changed_since_is_thrown_away(base_dir):
    with store_of(1000) as store:
        store.next_fault = faults(None, None, None, "cut", "drop")
        with pytest.raises(UserError):
            run(base_dir, store, 1000, retries=1)
        store.files[f"{folder_of(1000)}/model.pt"] = torch_file(seed=7)
        run(base_dir, store, 1000)
        assert is_right(store, 1000)


@pytest.mark.parametrize("checksum", [None, "md5"])
@pytest.mark.parametrize("name", ["model.pt", "config.yaml"])
def test_a_store_whose_file_is_cut_or_damaged_is_refused(base_dir, name, checksum):
    with store_of(1000, checksum=checksum) as store:
        path = f"{folder_of(1000)}/{name}"
        whole = store.files[path]
        store.files[path] = whole[: len(whole) // 2]
        # Where length and checksum are those of half a file, its content tells.
        with pytest.raises(UserError, match="cut"):
            run(base_dir, store, 1000)
        assert not is_right(store, 1000)


def test_what_is_not_there_is_named_before_the_first_byte(base_dir):
    with store_of(1000) as store:
        with pytest.raises(
            UserError, match=r"step2000-unsharded: the store has no config\.yaml, no model\.pt or"
        ) as error:
            run(base_dir, store, 1000, 2000, 3000)
        assert "step3000" in str(error.value)
        assert {method for method, *_ in store.requests} == {"HEAD"}
    assert not (base_dir / "output" / "olmo1b_ckpts").exists()


def test_only_what_is_needed_comes_unless_the_optimizer_is_asked_for(base_dir):
    with store_of(1000) as store:
        store.files |= {
            f"{folder_of(1000)}/{name}.pt": torch_file(num_values=n) for n, name in ((8, "optim"), (9, "train"))
        }
        run(base_dir, store, 1000)
        folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
        assert sorted(p.name for p in folder.iterdir()) == ["config.yaml", "meta.json", "model.pt"]
        run(base_dir, store, 1000, with_optimizer=True, overwrite=True)
        assert sorted(p.name for p in folder.iterdir())[2:] == ["model.pt", "optim.pt", "train.pt"]


def test_newer_releases_in_safetensors_come_too(base_dir):
    tensors = save({"a": torch.zeros(3)})
    with store_of(1000, checksum=None) as store:
        del store.files[f"{folder_of(1000)}/model.pt"]
        store.files[f"{folder_of(1000)}/model.safetensors"] = tensors
        run(base_dir, store, 1000)
        folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
        assert (folder / "model.safetensors").read_bytes() == tensors
        assert read_sidecar(folder)["downloaded"]["model.safetensors"]["verified_by"] == "two equal copies"


def test_sidecar_says_what_came_from_where_and_how_it_was_verified(base_dir):
    with store_of(1000, checksum=None) as store:
        run(base_dir, store, 1000, nearest=True, steps=("1200",))
        meta = read_sidecar(paths.native_checkpoint("olmo1b", "checkpoint-1000"))
        assert (meta["identity"]["step"], meta["step_asked_for"]) == (1000, 1200)
        model = meta["downloaded"]["model.pt"]
        assert model["url"] == f"{store.url}/{folder_of(1000)}/model.pt"
        assert model["verified_by"] == "crc32 of every tensor"
        store.requests.clear()
        run(base_dir, store, 1000)
        assert store.requests == []  # done: nothing is asked again


def test_the_same_weights_under_two_steps_are_refused_before_the_first_byte(base_dir):
    with store_of(1000, 2000, 3000) as store:
        store.files[f"{folder_of(3000)}/model.pt"] = store.files[f"{folder_of(1000)}/model.pt"]
        with pytest.raises(
            UserError, match=r"checkpoint-3000 has the same model\.pt as checkpoint-1000 \(md5 .*--allow"
        ):
            run(base_dir, store, 1000, 2000, 3000)
        assert {method for method, *_ in store.requests} == {"HEAD"}
        run(base_dir, store, 1000, 2000, 3000, allow_duplicates=True, download_in_parallel=True)
        assert all(is_right(store, step) for step in (1000, 2000, 3000))


def test_one_that_fails_does_not_hold_up_the_others(base_dir):
    with store_of(1000, 2000, checksum=None) as store:
        path = f"{folder_of(1000)}/model.pt"
        store.files[path] = store.files[path][:-100]
        with pytest.raises(UserError, match="1 of 2 failed: checkpoint-1000"):
            run(base_dir, store, 1000, 2000)
        assert is_right(store, 2000)


def test_too_little_disk_is_noticed_before_the_first_byte(base_dir, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with store_of(1000) as store, pytest.raises(UserError, match=r"0\.0 GB free, 0\.1 GB are needed"):
        run(base_dir, store, 1000)


def test_files_that_something_else_brought_are_verified_and_gone_on_with(base_dir):
    folder = paths.native_checkpoint("olmo1b", "checkpoint-1000")
    folder.mkdir(parents=True)
    with store_of(1000) as store:
        whole = store.files[f"{folder_of(1000)}/model.pt"]
        (folder / "model.pt.part").write_bytes(whole[:5000])
        (folder / "config.yaml").write_bytes(b"<html>404</html>")
        run(base_dir, store, 1000)
        assert is_right(store, 1000)
        assert ranges(store) == ["bytes=5000-"]
    (folder / "meta.json").unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which no download wrote"):
        run(base_dir, store, 1000)


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget is not installed")
def test_the_wget_script_brings_the_same_files(base_dir):
    with store_of(1000, 2000) as store:
        run(base_dir, store, 1000, 2000, get_wget_list=True)
        assert store.requests == []
        script = base_dir / "output" / "olmo1b_wget.sh"
        for _ in range(2):
            subprocess.run(["bash", str(script)], check=True, capture_output=True)
        run(base_dir, store, 1000, 2000)
        assert is_right(store, 1000)
        assert is_right(store, 2000)
        assert len([1 for method, path, _ in store.requests if method == "GET" and path.endswith("model.pt")]) == 2


def test_addresses_that_are_none_and_options_that_contradict_are_named(base_dir):
    with store_of(1000) as store:
        for options, message in (
            ({"steps": ("1000",), "ckpt_amount": 1}, "choose by --ckpt_amount or by --steps"),
            ({"steps": ("1000", "mian")}, "expected numbers or main, each once, found mian"),
            ({"steps": ("1000,1000",)}, "each once, found 1000, 1000"),
            ({"steps": ("1500",)}, r"no checkpoint of step 1500 \(nearest: 1000\)"),
            ({"ckpt_amount": 2}, "ckpt_amount is 2, expected 1 to 1"),
            ({"steps": ("1000",), "from_hub": True}, "one of --ckpt_csv and --from_hub"),
        ):
            with pytest.raises(UserError, match=message):
                run(base_dir, store, 1000, **options)


def test_a_file_without_end_is_given_up(base_dir):
    """A store that sends a few bytes a second keeps a connection alive for ever."""
    with store_of(1000) as store:
        store.next_fault = lambda path: "stall" if path.endswith("model.pt") else None
        with pytest.raises(UserError, match=r"gave up after 2 failure\(s\)"):
            run(base_dir, store, 1000, retries=1)
