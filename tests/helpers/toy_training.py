"""A toy model with its identity, a train file of 12 rows, runs in other processes, and comparison of weights."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from toy_models import toy_olmo
from transformers import AutoModelForCausalLM

from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import write_jsonl
from open_instruct.study.config import Checkpoint
from open_instruct.study.variants import Variant
from open_instruct.training.arguments import Args, resolve

ROWS = [("The cat sat", " on the mat"), ("The dog", " sat on the cat, and the dog sat"), ("yes or", " no")] * 4
FOLDER_NAME = "tiny_hf_ckpt7_socialiqa_2epoch_1e-3_bs4_fp32"


def toy_training(rows: list[tuple[str, str]] = ROWS, **config) -> Args:
    """Arguments of a run in $base_dir: two epochs of three steps of 4 examples.  config: of the model."""
    base = Variant(Checkpoint("tiny", 7))
    with Artifact(base.folder, arguments={}, identity=base.identity()).making_folder() as (made, _):
        toy_olmo(made, **config)
    train = Artifact(paths.train_file("socialiqa"), arguments={}, identity={"train_set": "socialiqa"})
    with train.making():
        write_jsonl(train.path, ({"id": str(i), "prompt": p, "completion": c} for i, (p, c) in enumerate(rows)))
    return Args(str(base.folder), train.path, learning_rate=1e-3, num_train_epochs=2, total_batch_size=4)


def output_of(args: Args) -> Path:
    """Folder of the run's model."""
    return finetune.variant_of(resolve(args, num_processes=1), Path(args.model_name_or_path)).folder


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def largest_difference(one, other) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def command_line(args: Args, *more: str) -> list[str]:
    """finetune.py and its arguments, as a user types them."""
    command = ["open_instruct/finetune.py", "--model_name_or_path", args.model_name_or_path]
    command += ["--train_file", str(args.train_file), "--learning_rate", str(args.learning_rate)]
    command += ["--num_train_epochs", str(args.num_train_epochs), "--total_batch_size", str(args.total_batch_size)]
    return [*command, *more]


def launched(args: Args, *more: str, num_processes: int, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run finetune.py by `accelerate launch`, as in scripts/slurm_scripts/fine_tune_olmo.sh.

    `--multi_gpu` selects torch's launcher, which uses gloo where there is no GPU; `--cpu` would start one process only.
    """
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
    launch += launcher or ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    # Port 0: any free port, so that several runs on this machine do not collide.
    launch += ["--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, *command_line(args, *more)],
        cwd=paths.REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(paths.REPOSITORY), "OMP_NUM_THREADS": "1"}
