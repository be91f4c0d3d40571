"""Download native toy checkpoints from a loopback store by download_olmo_ckpts.py."""

import csv
import io
import random
from pathlib import Path

import torch
from loopback_store import LoopbackStore, random_schedule

from open_instruct import download_olmo_ckpts
from open_instruct.checkpoints.http_probe import RetryPolicy
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import sidecar_path

MODEL = "\n".join(["model:", *(f"- option {n}" for n in range(200))])
CONFIG = (f"{MODEL}\ntokenizer:\n- {'x' * len(MODEL)}"[: 2 * len(MODEL) - 1] + "\n").encode()
"""As OLMo's, it has these two sections, far apart. Its middle byte is a newline; flipped, it is no YAML."""


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


def skip_waiting(monkeypatch) -> None:
    """Retry without backoff, and leave out the tokenizer, which takes a second to write."""
    policy = lambda **options: RetryPolicy(backoff_seconds=0.0, **options)  # noqa: E731
    monkeypatch.setattr(download_olmo_ckpts, "RetryPolicy", policy)
    monkeypatch.setattr(download_olmo_ckpts, "make_tokenizer", lambda family: None)


def run_download(base_dir: Path, store: LoopbackStore, *steps: int, **options) -> None:
    """Download `steps` of a list of the store, or choose from them by `options`."""
    path = base_dir / "list.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("Step", "Checkpoint Directory"))
        rows.writerows((step, f"{store.url}/{folder_of(step)}/") for step in steps)
    choice = {} if "steps" in options or "ckpt_amount" in options else {"steps": tuple(map(str, steps))}
    download_olmo_ckpts.main(download_olmo_ckpts.Args(ckpt_csv=path, timeout_seconds=0.1, **choice, **options))


def is_done(store: LoopbackStore, step: int) -> bool:
    """Whether a checkpoint counts as done.  Asserts that its files are then those of the store."""
    folder = paths.native_checkpoint("olmo1b", f"checkpoint-{step}")
    if not sidecar_path(folder).is_file():
        return False
    for name in ("config.yaml", "model.pt"):
        assert (folder / name).read_bytes() == store.files[f"{folder_of(step)}/{name}"]
    return True


def run_schedule(base_dir: Path, seed: int) -> bool:
    """Download under a random schedule of faults, and again without faults after an error.

    Asserts that an error names the store and leaves nothing done. Returns whether the first download was complete.
    """
    rng = random.Random(seed)
    base_dir.mkdir()
    with store_of(1000, checksum=rng.choice((None, "md5", "sha256"))) as store:
        store.next_fault = random_schedule(rng)
        try:
            run_download(base_dir, store, 1000, retries=4)
        except UserError as error:
            message = str(error)
        else:
            assert is_done(store, 1000)
            return True
        assert store.url in message
        assert not is_done(store, 1000)
        store.next_fault = lambda path: None
        run_download(base_dir, store, 1000)
        assert is_done(store, 1000)
        return False
