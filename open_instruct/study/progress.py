"""Progress of a running job, read from the files it writes: the same on this machine and on a cluster."""

import json
from pathlib import Path

from open_instruct.common.sidecars import read_sidecar, sidecar_path
from open_instruct.study.job import Job
from open_instruct.study.logs import tail


def share_done(job: Job) -> float:
    """Share, 0 to 1, of the job's outputs that are finished or, in training, of its optimiser steps."""
    finished = sum(sidecar_path(path).is_file() for path in job.outputs) / len(job.outputs)
    return max(finished, share_trained(job)) if job.stage == "finetune" else finished


def share_trained(job: Job) -> float:
    (output,) = job.outputs
    log, train_file = output.with_name(f"{output.name}.state") / "training_log.jsonl", job.inputs[1]
    if not log.is_file() or not sidecar_path(train_file).is_file():
        return 0.0
    num_rows = read_sidecar(train_file).get("rows") or 1
    if "--max_train_rows" in job.arguments:
        num_rows = min(num_rows, int(job.arguments[job.arguments.index("--max_train_rows") + 1]))
    num_steps = -(-num_rows * int(job.variables["epoch"]) // int(job.variables["TOTAL_BATCH_SIZE"]))
    return min(1.0, last_step(log) / num_steps)


def last_step(log: Path) -> int:
    for line in reversed(tail(log).splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # an incomplete line: the first of the tail, or one that is being written
    return 0
