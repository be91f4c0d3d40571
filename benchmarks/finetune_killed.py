"""Kill a fine-tuning run with kill -9 at random moments; what ends must have the weights of a run never killed.

A toy model on one thread, its state saved after every step, so that many a kill falls into saving or into resuming.
Prints how far the runs were when they were killed.  Writes nothing but a temporary folder.

    python benchmarks/finetune_killed.py
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from open_instruct.common.cli import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from killing import kill_at_random_moments
from toy_training import toy_training


@dataclass(frozen=True)
class Args:
    kills: int = 20
    seed: int = 0


def main(args: Args) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(base_dir=folder, data_dir=str(Path(folder) / "data"))
        training = replace(toy_training(), output_dir=Path(folder) / "out", checkpointing_steps="1")
        steps = kill_at_random_moments(training, args.kills, seed=args.seed)
    print(f"{args.kills} kills; last saved step when killed: {steps}; all ended with the same weights and losses")


if __name__ == "__main__":
    run(main, Args)
