"""Interrupt stages at random; what they end with must be that of an undisturbed run.

    predict    predict.py, killed (SIGKILL) and started again until it ends: the same bytes
    finetune   finetune.py, killed and continued: the same weights and losses
    download   download_olmo_ckpts.py under random faults of a loopback store: the right files, or an error that names
               the store and, after it, a second run that brings the right files
Reads nothing, writes a temporary folder only. Stops at the first result that differs.

    python benchmarks/robustness/killed.py --stage predict
"""

import os
import random
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Literal

import pytest
import torch

from eval import predict
from open_instruct.common.cli import run
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.sidecars import read_sidecar

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
from killing import kill_at_random_moments, kill_until_done, seconds_of
from models import evaluation_records, save_small_model
from native_downloads import run_schedule, skip_waiting
from toy_training import toy_training


@dataclass(frozen=True)
class Args:
    stage: Literal["predict", "finetune", "download"]
    times: int | None = None
    """Predictions of each kind (10), kills of fine-tuning (20), or schedules of download faults (1,000)."""
    num_items: int = 400
    """Items to predict."""
    seed: int = 0


def main(args: Args) -> None:
    torch.set_num_threads(1)
    stage, default = STAGES[args.stage]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(base_dir=folder, data_dir=f"{folder}/data")
        stage(args, Path(folder), args.times or default)


def kill_predictions(args: Args, folder: Path, times: int) -> None:
    rng = random.Random(args.seed)
    save_small_model(folder / "model")
    num_kills = 0
    for eval_set in ("socialiqa", "rte"):
        items, undisturbed = folder / f"{eval_set}.jsonl", folder / f"{eval_set}_undisturbed.jsonl"
        write_jsonl(items, evaluation_records(eval_set, args.num_items))
        whole = predict.Args(str(folder / "model"), (items,), output_file=undisturbed, batch_size=8, max_new_tokens=20)
        longest = seconds_of(predict.main, whole)
        for number in range(times):
            output = folder / f"{eval_set}_{number}.jsonl"
            kills = kill_until_done(predict.main, replace(whole, output_file=output), rng, longest=longest)
            num_kills += kills
            if output.read_bytes() != undisturbed.read_bytes():
                sys.exit(f"{eval_set}: a run that was killed {kills} times ended with other bytes")
            resumed = read_sidecar(output)["num_resumed"]
            print(
                f"{eval_set}: killed {kills} times, at last resumed at item {resumed} of {args.num_items}", flush=True
            )
    print(f"{2 * times} runs, killed {num_kills} times in all, ended with the bytes of undisturbed runs")


def kill_fine_tuning(args: Args, folder: Path, times: int) -> None:
    # The state is saved after every step, so that many kills happen during saving or resuming.
    training = replace(toy_training(), output_dir=folder / "out", checkpointing_steps="1")
    steps = kill_at_random_moments(training, times, seed=args.seed)
    print(f"{times} kills; last saved step at each: {steps}; all runs ended with the same weights and losses")


def disturb_downloads(args: Args, folder: Path, times: int) -> None:
    completed = Counter()
    with pytest.MonkeyPatch.context() as patch:
        skip_waiting(patch)
        for seed in range(args.seed, args.seed + times):
            patch.setenv("base_dir", str(folder / str(seed)))
            with redirect_stdout(StringIO()):
                completed[run_schedule(folder / str(seed), seed)] += 1
    print(
        f"{times} schedules: {completed[True]} brought the files, {completed[False]} ended in an error and brought "
        "them in a second run; none left a wrong file"
    )


STAGES = {"predict": (kill_predictions, 10), "finetune": (kill_fine_tuning, 20), "download": (disturb_downloads, 1_000)}

if __name__ == "__main__":
    run(main, Args)
