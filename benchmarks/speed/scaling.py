"""Time and memory of one stage's script on a very large input.

Stages and the unit of `--size`:
    format    rows of a mirror of MNLI, formatted by format_generalization.py
    predict   items, predicted by predict.py: labels and generation; time must be linear and memory constant
    score     prediction files, of which few have changed since they were scored by eval_pred.py
    tables    prediction sets, read by produce_tables.py: nothing cached, all cached, one file changed
    findings  checkpoints of Pythia, each with 45 fine-tuned models (three seeds), on 20 sets: tables, then findings.py
    plan      checkpoints of Pythia, each with 45 fine-tuned models: run_study.py --dry_run and --status
    suites    models of DataDecide, every checkpoint of every run: listed and planned from listings on the disk
Reads nothing; inputs are simulated in a temporary folder. Exits with 2 if a stage does other work than expected.

    python benchmarks/speed/scaling.py --stage predict
"""

import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import scaling_inputs

from open_instruct.checkpoints.families import families_like
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, to_line, write_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data.prompts import render
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.tasks import PROTOCOLS, eval_set_named, train_set_named
from open_instruct.tasks.declarations import Split

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from models import evaluation_records, save_small_model
from processes import Measured, measure, script

NUM_CHANGED = 3
MIN_SECONDS = 5.0
"""Differences of shorter times are noise."""
NUM_ITEMS = 50
"""In each prediction or metrics file."""


@dataclass(frozen=True)
class Args:
    stage: Literal["format", "predict", "score", "tables", "findings", "plan", "suites"]
    size: int | None = None
    """Rows, items, files, sets, checkpoints or models (default: the size of the recorded results)."""


def main(args: Args) -> None:
    stage, default_size = STAGES[args.stage]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(base_dir=folder, data_dir=f"{folder}/data")
        stage(Path(folder), args.size or default_size)


def format_rows(folder: Path, num_rows: int) -> None:
    measure_rendering()
    matched, train = eval_set_named("mnli_matched").split, train_set_named("mnli").splits[0]
    # The time of a split of one batch is subtracted: it does not depend on the number of rows.
    start = format_sets(folder / "start", {matched: 100}, "--eval_sets", "mnli_matched")
    format_sets(folder / "small", {matched: 10_000}, "--eval_sets", "mnli_matched")
    large = format_sets(folder / "large", {matched: num_rows}, "--eval_sets", "mnli_matched")
    rate = (num_rows - 100) / (large.seconds - start.seconds)
    num_formats = len(eval_set_named("mnli_matched").template.prompts)
    print(f"whole script, {num_rows:,} rows: {rate:,.0f} rows/s, {rate * num_formats:,.0f} records/s")
    sizes = {train: num_rows, matched: 9_815, eval_set_named("mnli_mismatched").split: 9_832}
    format_sets(folder / "sample", sizes, "--train_sets", "mnli")
    print(f"sampled {read_sidecar(folder / 'sample' / 'mnli.jsonl')['rows']:,} of {num_rows:,} train rows")


def measure_rendering(num_rows: int = 20_000) -> None:
    """Print the rate at which rows become lines of a file, in this process, for each format and protocol."""
    task = eval_set_named("mnli_matched")
    rows = list(scaling_inputs.nli_rows(num_rows))
    for protocol in PROTOCOLS:
        for task_format in task.template.prompts:
            started = time.process_time()
            for number, row in enumerate(rows):
                to_line(render(task, row, row_id=f"x-{number}", task_format=task_format, protocol=protocol))
            seconds = time.process_time() - started
            print(f"rendering, {protocol}, {task_format}: {num_rows / seconds:,.0f} rows/s")


def format_sets(data_dir: Path, sizes: dict[Split, int], *options: str) -> Measured:
    """Run the script on a mirror in `data_dir` with this many rows of each split."""
    for number, (split, num_rows) in enumerate(sizes.items()):
        path = data_dir / "mirror" / str(split.hub) / split.files.replace("*", "00000-of-00001")
        scaling_inputs.write_parquet(path, num_rows, number)
    command = script(REPOSITORY / "open_instruct" / "format_generalization.py", "--source", "local", "--any_row_count")
    name = f"format, {max(sizes.values()):,} rows, {' '.join(options)}"
    return measure(name, [*command, *options], {"data_dir": str(data_dir)})


def predict_items(folder: Path, num_items: int) -> None:
    """Raises UserError if the second half of the items takes longer than the first, or more memory."""
    save_small_model(folder / "model")
    for eval_set in ("rte", "socialiqa"):
        quarter, half, whole = (predict(folder, eval_set, num_items // part) for part in (4, 2, 1))
        # The time of a quarter is subtracted, since it includes the start.
        first, second = half.cpu_seconds - quarter.cpu_seconds, whole.cpu_seconds - half.cpu_seconds
        slowdown, growth = second / 2 / first, whole.peak_bytes / half.peak_bytes
        summary = f"second half {slowdown:.2f} x the time of an item before, {growth:.3f} x the memory"
        print(f"{eval_set}: {num_items / 2 / second:.0f} items/s of CPU time; {summary}")
        if second > MIN_SECONDS and (slowdown > 1.2 or growth > 1.05):
            raise UserError(f"{eval_set}: {summary}; expected at most 1.2 and 1.05")


def predict(folder: Path, eval_set: str, num_items: int) -> Measured:
    items = folder / f"{eval_set}_{num_items}.jsonl"
    write_jsonl(items, evaluation_records(eval_set, num_items))
    command = script(
        REPOSITORY / "eval" / "predict.py", "--model_name_or_path", folder / "model", "--input_files", items
    )
    command += ["--max_new_tokens", "4", "--output_file", str(items.with_suffix(".out.jsonl"))]
    return measure(f"predict, {eval_set}, {num_items:,} items", command, {"OMP_NUM_THREADS": "1"})


def score_files(folder: Path, num_files: int) -> None:
    predictions = folder / "output" / "predictions"
    predictions.mkdir(parents=True)
    first = predictions / "rte_0.jsonl"
    scaling_inputs.write_predictions(first, NUM_ITEMS)
    score("the first file", num_scored=1, num_files=1)
    scaling_inputs.copy_predictions(first, num_files)
    score("nothing changed", num_scored=0, num_files=num_files)
    for number in range(NUM_CHANGED):
        scaling_inputs.write_predictions(predictions / f"rte_{number}.jsonl", NUM_ITEMS + 1)
    score(f"{NUM_CHANGED} changed", num_scored=NUM_CHANGED, num_files=num_files)


def score(name: str, *, num_scored: int, num_files: int) -> None:
    output = measure(f"score, {name}", script(REPOSITORY / "eval" / "eval_pred.py")).output
    expected = f"{num_scored} scored, {num_files - num_scored} unchanged"
    if expected not in output:
        raise UserError(f"eval_pred.py: expected {expected}, found {output[-300:]}")


def make_tables(folder: Path, num_sets: int) -> None:
    predictions = folder / "output" / "predictions"
    scaling_inputs.write_metrics(predictions, num_sets, NUM_ITEMS)
    command = script(REPOSITORY / "analysis" / "produce_tables.py")
    measure("tables, nothing cached", command)
    measure("tables, all cached", command)
    os.utime(next(predictions.glob("*.metrics.json")))
    measure("tables, one file changed", command)


def find_claims(folder: Path, num_checkpoints: int) -> None:
    count = scaling_inputs.write_large_study(folder / "output" / "predictions", num_checkpoints, NUM_ITEMS)
    print(f"{count:,} predictions", flush=True)
    command = script(REPOSITORY / "analysis" / "produce_tables.py")
    measure("tables, nothing cached", command)
    measure("tables, all cached", command)
    measure("findings", script(REPOSITORY / "analysis" / "findings.py"))
    findings = read_json(folder / "results" / "all" / "findings.json")["findings"]
    gains = Counter(one["verdict"] for one in findings if one["question"] == "fine-tuning gain")
    print(f"{len(findings):,} claims; of the gains: {dict(gains)}")
    if gains["supported"] < 0.9 * gains.total():
        raise UserError(f"found {gains['supported']} of {gains.total()} gains of 0.4; expected nearly all")


def plan_study(folder: Path, num_checkpoints: int) -> None:
    study_file = scaling_inputs.write_study(folder, num_checkpoints)
    command = script(REPOSITORY / "scripts" / "run_study.py", study_file)
    measure("--dry_run, no outputs", [*command, "--dry_run"])
    jobs = plan(load_study(study_file))
    num_predictions = sum(len(job.outputs) for job in jobs if job.stage == "predict")
    print(f"{len(jobs)} jobs, {num_predictions} predictions", flush=True)
    scaling_inputs.write_outputs(jobs)
    measure("--dry_run, most outputs made", [*command, "--dry_run"])
    print(measure("--status", [*command, "--status"]).output)


def plan_suites(_folder: Path, num_models: int) -> None:
    study_file, num_checkpoints = scaling_inputs.write_listings(num_models)
    print(f"{num_models} models, {num_checkpoints:,} checkpoints", flush=True)
    download = script(REPOSITORY / "open_instruct" / "download_olmo_ckpts.py", "--family", scaling_inputs.SUITE)
    measure("--list --cached", [*download, "--list", "--cached"])
    measure("--dry_run", [*script(REPOSITORY / "scripts" / "run_study.py", study_file), "--dry_run"])


STAGES = {
    "format": (format_rows, 392_702),
    "predict": (predict_items, 50_000),
    "score": (score_files, 100_000),
    "tables": (make_tables, 100_000),
    "findings": (find_claims, len(scaling_inputs.PYTHIA_STEPS)),
    "plan": (plan_study, len(scaling_inputs.PYTHIA_STEPS)),
    "suites": (plan_suites, len(families_like(scaling_inputs.SUITE))),
}

if __name__ == "__main__":
    run(main, Args)
