"""How fast rows become files, and how much memory that takes: a mirror of MNLI's size, with random words as text.

Reads   nothing: the mirror is made here, Parquet with MNLI's columns, row counts and text lengths.
Writes  {folder}/, which is removed at the end, and a table on standard output.

Three things are measured. Rendering alone, in this process: the same rows again and again, each format and protocol.
The whole script on an evaluation set of 10,000 and of 392,702 rows, all three formats: its memory must not follow the
number of rows. The whole script on the train set: 6,000 rows of 392,702.

    python benchmarks/format_speed.py --folder /tmp/format_speed
"""

import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from processes import Measured, measure

from open_instruct.common.artifacts import read_sidecar
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import to_line
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.prompts import render
from open_instruct.tasks import PROTOCOLS, eval_set_named, train_set_named
from open_instruct.tasks.declarations import Split

SCRIPT = REPOSITORY / "open_instruct" / "format_generalization.py"
BATCH_ROWS = 10_000
SMALL_ROWS = 10_000
RENDERED_ROWS = 20_000


@dataclass(frozen=True)
class Args:
    folder: Path
    """Where the mirror and the formatted files lie; must not exist."""
    num_rows: int = 392_702
    """Of the train split, and of the large evaluation set. A smaller number is a trial of this script."""


def main(args: Args) -> None:
    if args.folder.exists():
        raise UserError(f"{args.folder} exists; give a folder that this script may fill and remove")
    try:
        for name, per_second in rendering():
            print(f"rendering {name}: {per_second:,.0f} rows/s")
        matched, train = eval_set_named("mnli_matched").split, train_set_named("mnli").splits[0]
        # Its start is paid once whatever the number of rows: it is measured on a split of one batch, and taken off.
        start = format_sets(args.folder / "start", {matched: 100}, "--eval_sets", "mnli_matched")
        small = format_sets(args.folder / "small", {matched: SMALL_ROWS}, "--eval_sets", "mnli_matched")
        large = format_sets(args.folder / "large", {matched: args.num_rows}, "--eval_sets", "mnli_matched")
        sizes = {train: args.num_rows, matched: 9_815, eval_set_named("mnli_mismatched").split: 9_832}
        sample = format_sets(args.folder / "sample", sizes, "--train_sets", "mnli")
        sampled = read_sidecar(args.folder / "sample" / "mnli.jsonl")["rows"]
        report(args, start, small, large, sample, sampled)
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


def rendering() -> Iterator[tuple[str, float]]:
    """Rows a second of every way to render an NLI row into a line, in one thread."""
    task = eval_set_named("mnli_matched")
    drawn = list(rows(RENDERED_ROWS))
    for protocol in PROTOCOLS:
        for task_format in task.template.prompts:
            started = time.process_time()
            for number, row in enumerate(drawn):
                record = render(task, row, row_id=f"x-{number}", task_format=task_format, protocol=protocol)
                to_line(record)
            yield f"{protocol}, {task_format}", len(drawn) / (time.process_time() - started)


def rows(num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Premises of 20 words and hypotheses of 10 on average, as MNLI has them."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5_000)]
    for number in range(num_rows):
        texts = [" ".join(draw.choices(words, k=draw.randint(low, high))) for low, high in ((5, 35), (4, 16))]
        yield {"premise": texts[0], "hypothesis": texts[1], "label": number % 3, "idx": number}


def format_sets(data_dir: Path, sizes: dict[Split, int], *options: str) -> Measured:
    """Time of the script, on a mirror in `data_dir` that holds `sizes` rows of each split."""
    for number, (split, num_rows) in enumerate(sizes.items()):
        path = data_dir / "mirror" / str(split.hub) / split.files.replace("*", "00000-of-00001")
        write_parquet(path, num_rows, number)
    command = ["env", f"data_dir={data_dir}", sys.executable, str(SCRIPT), "--source", "local", "--any_row_count"]
    return measure(f"{data_dir.name}: {' '.join(options)}", [*command, *options])


def write_parquet(path: Path, num_rows: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema({"premise": pa.string(), "hypothesis": pa.string(), "label": pa.int64(), "idx": pa.int32()})
    drawn = rows(num_rows, seed)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, BATCH_ROWS):
            batch = [next(drawn) for _ in range(min(BATCH_ROWS, num_rows - start))]
            writer.write_table(pa.Table.from_pylist(batch, schema))


def report(args: Args, start: Measured, small: Measured, large: Measured, sample: Measured, sampled: int) -> None:
    num_formats = len(eval_set_named("mnli_matched").template.prompts)
    per_second = (args.num_rows - 100) / (large.seconds - start.seconds)
    per_second = f"{per_second:,.0f} rows/s, {per_second * num_formats:,.0f} records/s"
    print(f"\nwhole script, {args.num_rows:,} rows: {per_second}")
    for what, measured in ((f"{SMALL_ROWS:,} rows", small), (f"{args.num_rows:,} rows", large)):
        print(f"peak memory, {what}: {measured.peak_bytes / 1e6:.0f} MB")
    print(f"sample of {sampled:,} from {args.num_rows:,}: {sample.seconds:.1f} s, {sample.peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    run(main, Args)
