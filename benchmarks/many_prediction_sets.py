"""Time and memory of produce_tables.py on a simulated study of very many prediction sets.

Writes metrics files with their sidecars to a temporary folder, then runs analysis/produce_tables.py on them three
times, each in a process of its own: nothing cached, all cached, and one file changed.

    python benchmarks/many_prediction_sets.py --num_sets 100000
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_STEPS = 100
TRAIN_SETS = (None, "xsum", "mnli", "paws", "socialiqa")


@dataclass(frozen=True)
class Args:
    num_sets: int = 100_000
    """Prediction sets: 500 models (100 checkpoints, as they are and fine-tuned on four sets) times evaluation sets."""
    num_items: int = 50
    """Items in each."""
    folder: Path | None = None
    """Where to write them (default: a temporary folder, removed at the end)."""


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        started = time.monotonic()
        count = write_study(Path(folder), args.num_sets, args.num_items)
        print(
            f"wrote {count} prediction sets of {args.num_items} items in {time.monotonic() - started:.0f} s", flush=True
        )
        for name in ("nothing cached", "all cached", "one file changed"):
            if name == "one file changed":
                path = next((Path(folder) / "output" / "predictions").glob("*.metrics.json"))
                os.utime(path)
            started = time.monotonic()
            command = [sys.executable, str(REPOSITORY / "analysis" / "produce_tables.py")]
            environment = os.environ | {"base_dir": folder, "PYTHONPATH": str(REPOSITORY)}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{name}: {time.monotonic() - started:.1f} s, at most {peak:,.0f} MiB so far", flush=True)


def write_study(folder: Path, num_sets: int, num_items: int) -> int:
    predictions = folder / "output" / "predictions"
    predictions.mkdir(parents=True)
    rng = np.random.default_rng(0)
    num_eval_sets = max(1, num_sets // (NUM_STEPS * len(TRAIN_SETS)))
    count = 0
    for e in range(num_eval_sets):
        ids = [f"set{e}_{i}" for i in range(num_items)]
        difficulty = rng.normal(0, 0.1, num_items)
        for step in range(0, NUM_STEPS * 1000, 1000):
            for train_set in TRAIN_SETS:
                model_id = f"ckpt{step}_{train_set or 'base'}"
                values = (0.3 + 0.1 * (train_set is not None) + difficulty + rng.normal(0, 0.1, num_items)).tolist()
                identity = {"model_id": model_id, "family": "olmo1b", "step": step, "tokens": step * 4_194_304}
                identity |= {"train_set": train_set, "epochs": 3 if train_set else None}
                identity |= {"lr": 2e-6 if train_set else None, "seed": 42 if train_set else None}
                identity |= {"adapter": "full" if train_set else None, "shots": 0, "protocol": "corrected"}
                identity |= {"eval_set": f"set{e}", "format": "default", "kind": "generation", "role": "other"}
                mean = {"mean": float(np.mean(values)), "standard_error": 0.02, "ci_low": 0.2, "ci_high": 0.6}
                content = {"identity": identity, "primary": "rouge_l", "metrics": {"rouge_l": mean | {"n": num_items}}}
                content["items"] = {"id": ids, "rouge_l": values}
                path = predictions / f"set{e}_{model_id}.metrics.json"
                path.write_text(json.dumps(content))
                path.with_name(f"{path.name}.meta.json").write_text(json.dumps({"identity": identity, "files": {}}))
                count += 1
    return count


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
