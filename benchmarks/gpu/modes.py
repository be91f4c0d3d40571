"""Fine-tuning on a GPU in every mode: equal losses, resuming after kill -9, FSDP, and the memory estimate.

losses     finetune.py in each precision, packed, with checkpointing, with LoRA and with FSDP, beside fp32 or bf16
resuming   a run is killed in the middle and started again: the weights are those of a run that was not
memory     estimated beside allocated bytes at their peak, for a model of OLMo-1B's size in bf16

python benchmarks/gpu/modes.py --output_file /tmp/modes.json
python benchmarks/gpu/modes.py --output_file /tmp/modes.json --tiny    # in miniature, on a CPU
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.encode import Encoded
from open_instruct.training.adapters import add_adapters
from open_instruct.training.arguments import Args as TrainingArgs
from open_instruct.training.attention import WITHOUT_MASK
from open_instruct.training.data import Examples, as_table
from open_instruct.training.memory import GB, MemoryEstimate
from open_instruct.training.train import estimate_memory

sys.path.extend([str(REPOSITORY / "benchmarks"), str(REPOSITORY / "benchmarks" / "speed")])
from figures import Figures
from finetune_vs_peers import Setting, fine_tune, make_examples
from models import OLMO_1B, SMALL, evaluation_records, olmo_tokenizer, random_olmo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEDIUM = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "initializer_range": 0.02,
}
"""30 million weights."""
BATCH_SIZE = 8
NUM_STEPS, SAVE_EVERY, KILL_AFTER = (24, 4, 8) if DEVICE == "cuda" else (6, 2, 2)
LAST_STEPS = 4
"""Whose losses are compared."""
BF16, LORA = ("--mixed_precision", "bf16"), ("--use_lora", "--lora_dropout", "0")
SECONDS_A_RUN = 70


@dataclass(frozen=True)
class Args:
    output_file: Path
    """JSON of the figures."""
    tiny: bool = False
    """Small models, to try the program on a CPU."""
    num_parallel: int = 6 if DEVICE == "cuda" else 2
    """Runs of finetune.py at once."""


@dataclass(frozen=True)
class Mode:
    options: tuple[str, ...] = ()
    reference: str = "fp32"
    """The mode whose losses are expected."""
    tolerance: float = 0.01
    """Relative difference of the mean loss of the last steps."""
    is_sharded: bool = False


MODES = {
    "fp32": Mode(),
    "bf16": Mode(BF16),
    "bf16, packed": Mode((*BF16, "--packing")),
    "bf16, gradient checkpointing": Mode((*BF16, "--gradient_checkpointing")),
    # Its first updates are skipped, while the scale of the loss is too large.
    "fp16": Mode(("--mixed_precision", "fp16"), tolerance=0.05),
    "fp32, LoRA": Mode(LORA, reference="fp32, LoRA"),
    "bf16, LoRA, packed": Mode((*BF16, *LORA, "--packing"), reference="fp32, LoRA"),
    "fp32, FSDP on one device": Mode(tolerance=1e-3, is_sharded=True),
    "bf16, FSDP on one device": Mode(BF16, is_sharded=True),
    "bf16 again": Mode(BF16),
}
TINY_MODES = ("fp32", "bf16", "bf16, packed", "fp32, FSDP on one device", "bf16 again")
MEMORY: dict[str, tuple[Setting, dict[str, Any]]] = {
    "8 padded examples of 60 tokens": (Setting("bf16", 8, (45, 75), (9, 17)), {}),
    "16 of them in two micro-batches": (Setting("bf16", 16, (45, 75), (9, 17)), {"per_device_train_batch_size": 8}),
    "2,048 packed tokens": (Setting("bf16", 4, (513, 513), (128, 128)), {"packing": True}),
    "8,192 packed tokens": (Setting("bf16", 4, (2049, 2049), (512, 512)), {"packing": True}),
    "8,192 packed tokens, gradient checkpointing": (
        Setting("bf16", 4, (2049, 2049), (512, 512)),
        {"packing": True, "gradient_checkpointing": True},
    ),
    "8,192 packed tokens, LoRA": (
        Setting("bf16", 4, (2049, 2049), (512, 512)),
        {"packing": True, "use_lora": True},
    ),
}


def main(args: Args) -> None:
    figures = Figures(args.output_file)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.num_parallel) as pool:
        folder = Path(name)
        make_inputs(folder, SMALL if args.tiny else MEDIUM)
        killed = pool.submit(run_and_kill, folder)
        modes = {name: mode for name, mode in MODES.items() if name in TINY_MODES or not args.tiny}
        runs = {name: pool.submit(run_mode, folder, name, mode) for name, mode in modes.items()}
        for name, (setting, options) in MEMORY.items():
            if args.tiny:
                setting = replace(setting, num_tokens=(40, 60), num_targets=(9, 17))
            try:
                compare_memory(figures, name, setting, options, OLMO_1B | (SMALL if args.tiny else {}))
            except torch.OutOfMemoryError as error:  # other programs use the GPU, too
                figures.add(f"memory, {name}: out of memory", str(error)[:60])
        failed = compare_losses(figures, folder, runs) + compare_weights(figures, folder, killed)
    if failed:
        raise UserError("\n".join(failed))


def make_inputs(folder: Path, config: Mapping[str, Any]) -> None:
    """A model, its tokenizer and a train file."""
    random_olmo(**config).save_pretrained(folder / "model")
    olmo_tokenizer().save_pretrained(folder / "model")
    write_jsonl(folder / "train.jsonl", evaluation_records("socialiqa", 96))


def run_mode(folder: Path, name: str, mode: Mode) -> None:
    """Run finetune.py to its end.  Raises UserError with the end of its output where it fails."""
    with (folder / f"{name}.log").open("w") as log:
        command = command_line(
            folder, name, *mode.options, "--checkpointing_steps", "never", is_sharded=mode.is_sharded
        )
        process = start(folder, command, log)
        finish(process, folder / f"{name}.log")


def run_and_kill(folder: Path) -> int:
    """Run finetune.py, kill it when it has saved a state, and start it again.  -> saved steps at the kill"""
    log_file, state = folder / "killed.log", folder / "killed.state"
    command = command_line(folder, "killed", *BF16, "--checkpointing_steps", str(SAVE_EVERY))
    with log_file.open("w") as log:
        process = start(folder, command, log)
        while not (state / f"step-{KILL_AFTER}").is_dir() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        if process.wait() == 0:
            raise UserError("a run ended before it could be killed")
        steps = max((int(path.name.removeprefix("step-")) for path in state.glob("step-*")), default=0)
        finish(start(folder, command, log), log_file)
    return steps


def command_line(folder: Path, name: str, *options: str, is_sharded: bool = False) -> list[str]:
    command = ["--model_name_or_path", str(folder / "model"), "--train_file", str(folder / "train.jsonl")]
    command += ["--output_dir", str(folder / name), "--learning_rate", "1e-3", "--max_train_steps", str(NUM_STEPS)]
    command += ["--total_batch_size", str(BATCH_SIZE), *options]
    script = REPOSITORY / "open_instruct" / "finetune.py"
    if not is_sharded:
        return [sys.executable, str(script), *command]
    if DEVICE == "cpu":  # accelerate shards on accelerators only
        script = REPOSITORY / "tests" / "helpers" / "sharded_on_cpu.py"
    precision = options[options.index("--mixed_precision") + 1] if "--mixed_precision" in options else "no"
    launch = ["--config_file", str(REPOSITORY / "scripts" / "accelerate" / "fsdp.yaml"), "--num_processes", "1"]
    launch += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", precision]
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *launch,
        "--dynamo_backend",
        "no",
        str(script),
        *command,
    ]


def start(folder: Path, command: list[str], log: Any) -> subprocess.Popen:
    environment = {"base_dir": str(folder), "data_dir": str(folder), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    if DEVICE == "cpu":
        environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
    return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen, log: Path) -> None:
    try:
        code = process.wait(SECONDS_A_RUN if DEVICE == "cuda" else None)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code != 0:
        raise UserError(f"{log.stem}: exit code {code}\n{log.read_text(errors='replace')[-3000:]}")


def compare_losses(figures: Figures, folder: Path, runs: Mapping[str, Future]) -> list[str]:
    """-> messages of failed runs"""
    failed: list[str] = []
    losses: dict[str, list[float]] = {}
    for name, future in runs.items():
        mode = MODES[name]
        try:
            future.result()
        except UserError as error:
            failed.append(str(error))
            continue
        log = [json.loads(line) for line in (folder / name / "training_log.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in log]
        last = mean_of_last(losses[name])
        if mode.reference == name:
            figures.add(f"{name}: loss, first and last steps", f"{losses[name][0]:.3f} {last:.3f}", "nats")
        elif mode.reference in losses:
            expected = mean_of_last(losses[mode.reference])
            difference = abs(last - expected) / expected
            figures.add(f"{name}: relative difference to {mode.reference}", difference, at_most=mode.tolerance)
    return failed


def mean_of_last(losses: list[float]) -> float:
    return sum(losses[-LAST_STEPS:]) / LAST_STEPS


def compare_weights(figures: Figures, folder: Path, killed: Future[int]) -> list[str]:
    """-> messages of failed runs"""
    try:
        steps = killed.result()
    except UserError as error:
        return [str(error)]
    if not all((folder / name / "model.safetensors").is_file() for name in ("bf16", "bf16 again")):
        return []  # the failure of that run is reported
    expected = load_file(folder / "bf16" / "model.safetensors")
    # Where kernels of the GPU add in varying order, two runs differ; resuming must not add to that.
    repeated = largest_difference(expected, load_file(folder / "bf16 again" / "model.safetensors"))
    found = largest_difference(expected, load_file(folder / "killed" / "model.safetensors"))
    figures.add("weights of two equal runs, largest difference", repeated)
    what = f"weights of a run killed with {steps} of {NUM_STEPS} steps saved, largest difference"
    figures.add(what, found, at_most=repeated)
    return []


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def compare_memory(
    figures: Figures, name: str, setting: Setting, options: dict[str, Any], config: Mapping[str, Any]
) -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    # The optimiser's moments are there from the first step on.
    rows = make_examples(setting, num_steps=3)
    with torch.device(DEVICE):
        model: Any = random_olmo(**config, attn_implementation=WITHOUT_MASK)
        need = estimate_of(model.config, rows, setting, options)
        if options.get("use_lora"):
            model = add_adapters(model, rank=64, alpha=16, dropout=0.1)
        if options.get("gradient_checkpointing"):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(model, rows, setting.batch_size, Path(folder), mixed_precision=setting.precision, **options)
    figures.add(f"memory, {name}: estimate", need.total / GB, "GB")
    if DEVICE == "cuda":
        peak = torch.cuda.max_memory_allocated() - before
        figures.add(f"memory, {name}: peak", peak / GB, "GB")
        figures.add(f"memory, {name}: estimate / peak", need.total / peak, at_least=0.85, at_most=1.15)
    print(f"  {need}", flush=True)


def estimate_of(config: Any, rows: list[Encoded], setting: Setting, options: dict[str, Any]) -> MemoryEstimate:
    """As finetune.py prints it."""
    size, same = setting.batch_size, {"mixed_precision": setting.precision}
    train = Examples(as_table(rows))
    steps = [list(range(first, first + size)) for first in range(0, len(train), size)]
    args = TrainingArgs(model_name_or_path="", train_file=Path(), learning_rate=1e-4, **same, **options)
    return estimate_memory(args, Accelerator(**same), config, train, steps)


if __name__ == "__main__":
    run(main, Args)
