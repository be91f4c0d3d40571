"""Score prediction files: the metrics of their kind, with intervals and per-item values.

Reads    prediction files (eval/predict.py, eval/predict_classification.py) and their sidecars. Files that have not
         changed since they were scored are skipped. With --against also suite files (olmo_eval.run_lm_eval).
Writes   {prediction}.metrics.json beside each: {"identity", "primary", "metrics": {name: {"mean", "standard_error",
         "ci_low", "ci_high", "n"}}, "items": {"id": [...], metric: [...], "gold_bits", "gold_bytes"}}, and its sidecar

    python eval/eval_pred.py                                              # all of $base_dir/output/predictions
    python eval/eval_pred.py --input_files output/predictions/rte_*.jsonl
    output_file_name=rte_checkpoint-1000.jsonl python eval/eval_pred.py   # one of them
    python eval/eval_pred.py --input_files tuned.jsonl --against base.jsonl        # and their paired differences
    python eval/eval_pred.py --input_files sciq_tuned.json --against sciq_base.json --differences_file sciq.csv
"""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.aggregation import aggregate, item_values
from eval.metrics.comparable import counterpart, is_suite_file, load_comparables
from eval.metrics.metrics_file import Metrics, load_metrics, reported_value
from eval.metrics.prediction_files import FIX, identify_predictions, read_predictions
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, write_json
from open_instruct.common.naming import suffix
from open_instruct.study.settings import ScoreOptions
from open_instruct.tasks.declarations import PRIMARY_METRICS

IDENTIFYING = ("model_id", "eval_set", "format", "shots")


@dataclass(frozen=True)
class Args(ScoreOptions):
    input_files: tuple[Path, ...] = ()
    """Prediction files, or with --against suite files (default: $output_file_name, else all predictions)."""
    output_csv: Path | None = None
    """Also write the scores of all input files as CSV, a row for each file and metric."""
    against: tuple[Path, ...] = ()
    """Files of another model: also print the paired difference of each input from that of the same set or task."""
    differences_file: Path | None = None
    """Also write the differences: as .csv, or as .json {file: {metric: {"mean", "ci_low", …, "p_value"}}}."""
    overwrite: bool = False
    """Score files again that were scored with other arguments."""


def main(args: Args) -> None:
    files = args.input_files or files_from_environment()
    require_files((*files, *args.against))
    check_args(args, files)
    predictions = [path for path in files if not is_suite_file(path)]
    scored = [path for path in predictions if score_file(path, args)]
    # Of a whole folder only new files are shown: a second run then reads no file at all.
    print_table([load_metrics(metrics_of(path, args)) for path in (predictions if args.input_files else scored)])
    print(f"{len(scored)} scored, {len(predictions) - len(scored)} unchanged")
    if args.output_csv:
        write_scores(predictions, args.output_csv, args)
    if args.against:
        compare(files, args)


def check_args(args: Args, files: Sequence[Path]) -> None:
    """Raises UserError for options that do not fit together or to the files."""
    if args.differences_file and not args.against:
        raise UserError("--differences_file needs two models to compare; add --against another_model.jsonl")
    if args.differences_file and args.differences_file.suffix not in (".csv", ".json"):
        raise UserError(f"--differences_file is {args.differences_file}; expected a name that ends in .csv or .json")
    suites = [str(path) for path in files if is_suite_file(path)]
    if suites and not args.against:
        raise UserError(
            f"{', '.join(suites)}: suite files have their scores in them; to compare them with those of another model, "
            "add --against; for a table of all, see `python analysis/produce_tables.py`"
        )


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
        maker = "python -m olmo_eval.run_lm_eval" if missing[0].endswith(".json") else "python eval/predict.py"
        raise UserError(f"no such file: {', '.join(missing)}; make it with `{maker}`")


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    return [artifact_of(path, args) for path in args.input_files]


def artifact_of(prediction: Path, args: Args, identity: Mapping[str, Any] | None = None) -> Artifact:
    return Artifact(metrics_of(prediction, args), recorded_arguments(args), {"predictions": prediction}, identity or {})


def score_file(path: Path, args: Args) -> bool:
    """Write the metrics file of one prediction file, unless it is up to date.  -> whether it was written"""
    if artifact_of(path, args).is_done(overwrite=args.overwrite):
        return False
    identity = identify_predictions(path)
    kind = identity["kind"]
    records = read_predictions(path, kind, identity)
    primary = identity.get("metric") or PRIMARY_METRICS[kind]
    values = item_values(records, kind, primary, identity.get("answer"))
    metrics = Metrics(identity, primary, aggregate(records, values, kind, **bootstrap(args)), values)
    if primary not in metrics.metrics:
        raise UserError(f"{path}: its metric is {primary}, but the records have no gold_logprob; {FIX}")
    with artifact_of(path, args, identity).making():
        write_json(metrics_of(path, args), metrics.to_json())
    return True


def metrics_of(prediction: Path, args: Args) -> Path:
    return paths.metrics_file(prediction, suffix(args))


def bootstrap(args: Args) -> dict[str, Any]:
    return {"num_resamples": args.num_resamples, "seed": args.seed, "method": args.method}


def recorded_arguments(args: Args) -> dict[str, Any]:
    """Arguments in the sidecar; without the default method, as in files from before there was another."""
    return {name: value for name, value in bootstrap(args).items() if value != "percentile"}


def print_table(results: Sequence[Metrics]) -> None:
    """Print a line for each file: its conditions, the primary metric with its interval, and bits per byte."""
    rows = [
        (
            "model",
            "evaluated on",
            "shots",
            "conditions",
            "n",
            "metric",
            "value ± s.e. [95% interval]",
            "bits per byte ± s.e.",
        )
    ]
    for result in results:
        identity, primary = result.identity, result.metrics[result.primary]
        name = "_".join(
            str(part) for part in (identity["eval_set"], identity["format"]) if part not in (None, "default")
        )
        value = reported_value(primary, identity.get("protocol"))
        interval = f"{value:.4f} ± {primary.standard_error:.4f} [{primary.ci_low:.4f}, {primary.ci_high:.4f}]"
        bits = result.metrics.get("bits_per_byte")
        bits_per_byte = f"{bits.mean:.4f} ± {bits.standard_error:.4f}" if bits else "-"
        shots = str(identity.get("shots") or 0)
        conditions = str(identity.get("conditions") or "")
        about = (str(identity["model_id"]), name, shots, conditions, str(primary.n))
        rows.append((*about, result.primary, interval, bits_per_byte))
    if not any(row[3] for row in rows[1:]):
        rows = [(*row[:3], *row[4:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if results else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_scores(files: Sequence[Path], output: Path, args: Args) -> None:
    rows = []
    for path in files:
        found = load_metrics(metrics_of(path, args))
        about = {"file": str(path)} | {name: found.identity.get(name) for name in IDENTIFYING}
        rows += [about | {"metric": metric} | interval.to_json() for metric, interval in found.metrics.items()]
    with Artifact(output, {"files": list(map(str, files)), **recorded_arguments(args)}).making():
        write_csv(output, rows)
    print(f"wrote {output} ({len(rows)} rows)")


def compare(files: Sequence[Path], args: Args) -> None:
    """Print, and with --differences_file write, the paired differences of each file from its counterpart."""
    from eval.metrics import paired_comparison  # imports scipy.stats, which takes half a second

    for path in args.against:
        if not is_suite_file(path):
            score_file(path, args)
    others = [other for path in args.against for other in load_comparables(path, suffix(args))]
    rows, found = [], {str(path): {} for path in files}
    for one in [one for path in files for one in load_comparables(path, suffix(args))]:
        other = counterpart(one, others)
        differences = paired_comparison.paired_differences(
            one.items, other.items, names=(one.path, other.path), **bootstrap(args)
        )
        on = f" on {one.evaluated_on}" if one.is_suite else ""
        paired_comparison.print_differences(differences, title=f"{one.path.stem} minus {other.path.stem}{on}")
        about = {"file": str(one.path), "against": str(other.path), "model_id": one.model_id}
        about |= {"against_model_id": other.model_id, "evaluated_on": one.evaluated_on}
        for metric, difference in differences.items():
            rows.append(about | {"metric": metric} | difference.to_json())
            found[str(one.path)][f"{one.evaluated_on}.{metric}" if one.is_suite else metric] = difference.to_json()
    if args.differences_file:
        arguments = {"files": list(found), "against": list(map(str, args.against)), **recorded_arguments(args)}
        with Artifact(args.differences_file, arguments).making():
            if args.differences_file.suffix == ".csv":
                write_csv(args.differences_file, rows)
            else:
                write_json(args.differences_file, found)
        print(f"wrote {args.differences_file}")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run(main, Args)
