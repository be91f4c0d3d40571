"""Time and memory of converting a checkpoint of OLMo-1B's shape, compared with a copy and with transformers' converter.

Reads   nothing: the weights are random, in float32 (16 layers of width 2048, 1.18e9 parameters, 4.7 GB).
Writes  {folder}/, which takes 20 GB and is removed at the end.

The copy (cp, then sync of that file) is on disk when it ends, as is the conversion, which calls fsync. It is repeated
before every conversion; the table shows medians. `script` is the time of convert_olmo_to_tf.py in a process that has
imported the packages of a study's warm process (open_instruct/study/executors/warm_process.py), `seconds` that of the
whole command, Python's start and these imports included.

transformers has its converter up to version 4.47; it needs its own environment:

    python -m venv /tmp/peer && /tmp/peer/bin/pip install transformers==4.47.1 torch==2.13.0 accelerate pyyaml
    python benchmarks/speed/convert_1b.py --folder /tmp/convert_1b --peer_python /tmp/peer/bin/python
"""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from open_instruct.checkpoints.family import TokenizerFile
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data.olmo_data import package_folder
from open_instruct.olmo_hf.tokenizer import write_tokenizer

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from processes import Measured, measure, script

TOKENIZER = "allenai_gpt-neox-olmo-dolma-v1_5.json"
COPY = "copy (cp, sync)"
WARM = """
import importlib, runpy, sys, time
from open_instruct.study.executors.warm_process import HEAVY_MODULES
for name in HEAVY_MODULES:
    importlib.import_module(name)
del sys.argv[0]
started = time.monotonic()
runpy.run_path(sys.argv[0], run_name="__main__")
print(time.monotonic() - started)
"""
REST_SECONDS = 8.0
"""Before each copy, as long as a conversion takes to start. A virtual machine returns freed memory to its host; a copy
right after a deletion would not pay for getting it again, as the conversion does."""
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
    """For all files; must not exist."""
    peer_python: Path | None = None
    """Interpreter of the environment with transformers' converter (default: it is not measured)."""
    d_model: int = 2048
    """A smaller width is for trying this script."""
    repeats: int = 3
    by_layer: bool = True
    """Measure the verification layer by layer too, once."""


@dataclass(frozen=True)
class Conversion:
    command: Measured
    script: float = 0.0
    writing: float = 0.0
    forward: float = 0.0
    """Seconds."""


def main(args: Args) -> None:
    if args.folder.exists():
        raise UserError(f"{args.folder} exists; give a folder that this script may fill and remove")
    native = args.folder / "native"
    try:
        # With a sidecar, as after a download: the hashes in it are not computed again.
        with Artifact(native, {}, identity={"family": "olmo1b", "step": 1000}).making_folder() as (made, _):
            measure("make the checkpoint", script("-c", MAKE, made, args.d_model))
        write_tokenizer(TokenizerFile(TOKENIZER, pad="<|padding|>"), args.folder / "tokenizer")
        copy(args)  # Not counted: memory that the system has not given out yet is slow to get.
        runs = [("unverified", "--no-verify"), ("verified",)] * args.repeats
        runs += [("by_layer", "--verify_by", "layers")] * args.by_layer
        results = [result for run in runs for result in (copy(args), convert(args, *run))]
        if args.peer_python:
            results += [copy(args), Conversion(convert_with_peer(args.peer_python, args.folder))]
        report(results, (native / "model.pt").stat().st_size)
    finally:
        shutil.rmtree(args.folder)


def copy(args: Args) -> Conversion:
    source, target = args.folder / "native" / "model.pt", args.folder / "copy.pt"
    time.sleep(REST_SECONDS)
    measured = measure(COPY, ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)])
    target.unlink()
    return Conversion(measured)


def convert(args: Args, name: str, *options: str) -> Conversion:
    output = args.folder / name
    command = script("-c", WARM, REPOSITORY / "open_instruct" / "olmo_hf" / "convert_olmo_to_tf.py")
    command += ["--family", "olmo1b", "--step", "1000", "--input_dir", str(args.folder / "native")]
    command += ["--output_dir", str(output), "--tokenizer_name_or_path", str(args.folder / "tokenizer"), *options]
    measured = measure(f"conversion, {name}", command)
    meta = read_sidecar(output)
    shutil.rmtree(output)  # room for the next one
    forward = (meta["verification"] or {}).get("forward_seconds", 0.0)
    return Conversion(measured, float(measured.output.split()[-1]), meta["write_seconds"], forward)


def convert_with_peer(python: Path, folder: Path) -> Measured:
    command = [str(python), "-m", "transformers.models.olmo.convert_olmo_weights_to_hf", "--safe_serialization", "True"]
    command += ["--input_dir", str(folder / "native"), "--output_dir", str(folder / "peer")]
    return measure(
        "transformers' converter", [*command, "--tokenizer_json_path", str(package_folder("tokenizers") / TOKENIZER)]
    )


def report(results: Sequence[Conversion], num_bytes: int) -> None:
    """Print medians by command, and times without forward passes in units of the copy's time."""
    by_name: dict[str, list[Conversion]] = {}
    for result in results:
        by_name.setdefault(result.command.name, []).append(result)
    copy_seconds = median(result.command.seconds for result in by_name[COPY])
    print(f"\ncheckpoint: {num_bytes / 1e9:.2f} GB; medians")
    titles = ("seconds", "cpu", "script", "writing", "forward", "peak GB", "of file")
    print(f"{'':<28}{''.join(f'{title:>9}' for title in titles)}")
    for name, same in by_name.items():
        times = [(r.command.seconds, r.command.cpu_seconds, r.script, r.writing, r.forward) for r in same]
        peak = max(r.command.peak_bytes for r in same)
        medians = "".join(f"{median(column):9.1f}" for column in zip(*times, strict=True))
        print(f"{name:<28}{medians}{peak / 1e9:9.2f}{peak / num_bytes:9.2f}")
        if same[0].script:
            command = median(r.command.seconds - r.forward for r in same) / copy_seconds
            own = median(r.script - r.forward for r in same) / copy_seconds
            print(f"  without forward passes, in copies: command {command:.2f}, script {own:.2f}")


if __name__ == "__main__":
    run(main, Args)
