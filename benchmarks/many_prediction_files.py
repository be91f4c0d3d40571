"""Time and memory of eval_pred.py over a folder of very many prediction files, of which few have changed.

Scores one file, lays copies of it and of its metrics into a temporary folder, and runs eval/eval_pred.py on the folder
twice, each in a process of its own: nothing changed, and then some files. Ends with 1 where others are scored.

    python benchmarks/many_prediction_files.py --num_files 100000
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from open_instruct.common.artifacts import Artifact, content_hash, sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.json_files import write_jsonl

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Args:
    num_files: int = 100_000
    num_changed: int = 3
    num_items: int = 50
    """In each file."""


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "output" / "predictions"
        folder.mkdir(parents=True)
        first = folder / "rte_0.jsonl"
        write_predictions(first, args.num_items)
        score_folder(Path(temporary))
        copy_all(first, args.num_files)
        passed = [tell("nothing changed", score_folder(Path(temporary)), expected=(0, args.num_files))]
        for number in range(args.num_changed):
            write_predictions(folder / f"rte_{number}.jsonl", args.num_items + 1)
        expected = (args.num_changed, args.num_files - args.num_changed)
        passed.append(tell(f"{args.num_changed} changed", score_folder(Path(temporary)), expected=expected))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"at most {peak:,.0f} MiB")
    if not all(passed):
        sys.exit(1)


def write_predictions(path: Path, num_items: int) -> None:
    identity = {"model_id": path.stem, "eval_set": "rte", "format": "default", "protocol": "corrected"}
    identity |= {"kind": "labels", "role": "other", "shots": 0}
    with Artifact(path, {}, identity=identity).making():
        write_jsonl(path, [prediction(i) for i in range(num_items)])


def prediction(index: int) -> dict[str, object]:
    scores = {"entailment": -1.0, "neutral": -2.0 + index % 3}
    return {
        "dataset": "rte",
        "id": f"rte-{index}",
        "completion": " neutral",
        "output": max(scores, key=scores.__getitem__),
        "scores": scores,
        "gold_logprob": min(0.0, scores["neutral"]),
    }


def copy_all(first: Path, count: int) -> None:
    """The same predictions and metrics under other names; sidecars name their files, and hold their times."""
    contents = {path: path.read_text() for path in first.parent.iterdir() if path.suffix in (".jsonl", ".json")}
    for number in range(1, count):
        new = f"rte_{number}"
        for path, text in contents.items():
            copy = path.with_name(path.name.replace(first.stem, new))
            copy.write_text(text.replace(first.stem, new) if path.name.endswith(".meta.json") else text)
            shutil.copystat(path, copy)
        sidecar = sidecar_path(first.with_name(f"{new}.metrics.json"))
        inputs = {"predictions": content_hash(first.with_name(f"{new}.jsonl"))}
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"inputs": inputs}))


def score_folder(base_dir: Path) -> tuple[float, int, int]:
    """Seconds, and how many files were scored and how many were as before."""
    command = [sys.executable, str(REPOSITORY / "eval" / "eval_pred.py")]
    started = time.perf_counter()
    environment = os.environ | {"base_dir": str(base_dir)}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) scored, (\d+) unchanged", printed)
    assert found is not None, printed
    return time.perf_counter() - started, int(found[1]), int(found[2])


def tell(what: str, result: tuple[float, int, int], *, expected: tuple[int, int]) -> bool:
    seconds, *counts = result
    print(f"{what}: {counts[0]} scored, {counts[1]} unchanged, {seconds:.1f} s", flush=True)
    return tuple(counts) == expected


if __name__ == "__main__":
    run(main, Args)
