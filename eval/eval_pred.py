"""Score prediction files: the metrics of their kind, with intervals and per-item values.

Reads    prediction files (eval/predict.py, eval/predict_classification.py) and their sidecars. Files that have not
         changed since they were scored are skipped.
Writes   {prediction}.metrics.json beside each: {"identity", "primary", "metrics": {name: {"mean", "standard_error",
         "ci_low", "ci_high", "n"}}, "items": {"id": [...], metric: [...], "gold_bits", "gold_bytes"}}, and its sidecar

    python eval/eval_pred.py                                              # all of $base_dir/output/predictions
    python eval/eval_pred.py --input_files output/predictions/rte_*.jsonl
    output_file_name=rte_checkpoint-1000.jsonl python eval/eval_pred.py   # one of them
    python eval/eval_pred.py --input_files tuned.jsonl --against base.jsonl        # and their paired differences
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.aggregation import aggregate, item_values
from eval.metrics.bootstrap import NUM_RESAMPLES, Method
from eval.metrics.metrics_file import Metrics, load_metrics
from eval.metrics.prediction_files import FIX, identify_predictions, read_predictions
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.paths import metrics_file
from open_instruct.tasks.declarations import PRIMARY_METRICS


@dataclass(frozen=True)
class Args:
    input_files: tuple[Path, ...] = ()
    """Prediction files (default: $output_file_name if set, else all in $base_dir/output/predictions)."""
    num_resamples: int = NUM_RESAMPLES
    """Bootstrap resamples for each interval."""
    seed: int = 0
    """Seed of the resamples."""
    method: Method = "percentile"
    """Interval: percentile, or bca (corrected for bias and skewness; macro F1 stays percentile)."""
    against: Path | None = None
    """Predictions of another model for the same items: also print the paired difference of each input file from it."""
    differences_file: Path | None = None
    """Also write the differences, as JSON: {prediction: {metric: {"mean", "ci_low", …, "p_value"}}}."""
    overwrite: bool = False
    """Score files again that were scored with other arguments."""


def main(args: Args) -> None:
    if args.differences_file and not args.against:
        raise UserError("--differences_file needs two models to compare; add --against another_model.jsonl")
    files = args.input_files or files_from_environment()
    require_files((*files, args.against) if args.against else files)
    scored = [path for path in files if score_file(path, args)]
    # Of a whole folder only new files are shown: a second run then reads no file at all.
    print_table([load_metrics(metrics_file(path)) for path in (args.input_files or scored)])
    print(f"{len(scored)} scored, {len(files) - len(scored)} unchanged")
    if args.against:
        compare(files, args.against, args)


def files_from_environment() -> tuple[Path, ...]:
    """$output_file_name in $base_dir/output/predictions, or all prediction files there."""
    folder = paths.base_dir() / "output" / "predictions"
    name = os.environ.get("output_file_name")
    if name:
        return (folder / f"{paths.safe_name(name).removesuffix('.jsonl')}.jsonl",)
    return tuple(sorted(folder.glob("*.jsonl")))


def require_files(files: Sequence[Path]) -> None:
    if not files:
        raise UserError(
            f"no prediction file (*.jsonl) in {paths.base_dir() / 'output' / 'predictions'}; make them with "
            "`python eval/predict.py`, name some with --input_files, or set base_dir to the folder of their output/"
        )
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise UserError(f"no such prediction file: {', '.join(missing)}; make it with `python eval/predict.py`")


def score_file(path: Path, args: Args) -> bool:
    """Write the metrics file of one prediction file, unless it is up to date.  -> whether it was written"""
    arguments = recorded_arguments(args)
    inputs = {"predictions": path}
    if Artifact(metrics_file(path), arguments, inputs).is_done(overwrite=args.overwrite):
        return False
    identity = identify_predictions(path)
    kind = identity["kind"]
    records = read_predictions(path, kind)
    primary = identity.get("metric") or PRIMARY_METRICS[kind]
    values = item_values(records, kind, primary)
    metrics = Metrics(identity, primary, aggregate(records, values, kind, **bootstrap(args)), values)
    if primary not in metrics.metrics:
        raise UserError(f"{path}: its metric is {primary}, but the records have no gold_logprob; {FIX}")
    with Artifact(metrics_file(path), arguments, inputs, identity).making():
        write_json(metrics_file(path), metrics.to_json())
    return True


def bootstrap(args: Args) -> dict[str, Any]:
    return {"num_resamples": args.num_resamples, "seed": args.seed, "method": args.method}


def recorded_arguments(args: Args) -> dict[str, Any]:
    """Arguments in the sidecar; without the default method, as in files from before there was another."""
    return {name: value for name, value in bootstrap(args).items() if value != "percentile"}


def print_table(results: Sequence[Metrics]) -> None:
    """Print a line for each file: the primary metric with its interval, and bits per byte."""
    rows = [("model", "evaluated on", "shots", "n", "metric", "mean ± s.e. [95% interval]", "bits per byte ± s.e.")]
    for result in results:
        identity, primary = result.identity, result.metrics[result.primary]
        name = "_".join(
            str(part) for part in (identity["eval_set"], identity["format"]) if part not in (None, "default")
        )
        interval = f"{primary.mean:.4f} ± {primary.standard_error:.4f} [{primary.ci_low:.4f}, {primary.ci_high:.4f}]"
        bits = result.metrics.get("bits_per_byte")
        bits_per_byte = f"{bits.mean:.4f} ± {bits.standard_error:.4f}" if bits else "-"
        shots = str(identity.get("shots") or 0)
        rows.append((str(identity["model_id"]), name, shots, str(primary.n), result.primary, interval, bits_per_byte))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if results else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def compare(files: Sequence[Path], against: Path, args: Args) -> None:
    """Print, and with --differences_file write, the paired differences of each file from `against`."""
    from eval.metrics import paired_comparison  # imports scipy.stats, which takes half a second

    score_file(against, args)
    theirs = load_metrics(metrics_file(against))
    found = {}
    for path in files:
        ours = load_metrics(metrics_file(path))
        if ours.identity["eval_set"] != theirs.identity["eval_set"]:
            raise UserError(
                f"{path} is of {ours.identity['eval_set']}, {against} of {theirs.identity['eval_set']}; "
                "expected the same evaluation set"
            )
        differences = paired_comparison.paired_differences(
            ours.items, theirs.items, names=(path, against), **bootstrap(args)
        )
        paired_comparison.print_differences(differences, names=(path, against))
        found[str(path)] = {metric: difference.to_json() for metric, difference in differences.items()}
    if args.differences_file:
        arguments = {"files": list(found), "against": str(against), **recorded_arguments(args)}
        with Artifact(args.differences_file, arguments).making():
            write_json(args.differences_file, found)


if __name__ == "__main__":
    run(main, Args)
