"""Score prediction files: what their kind of task calls for, with intervals, and every item's own value.

Reads    prediction files (eval/predict.py, eval/predict_classification.py) and their sidecars. Files that have not
         changed since they were scored are passed over.
Writes   {prediction}.metrics.json beside each: {"identity", "primary", "metrics": {name: {"mean", "standard_error",
         "ci_low", "ci_high", "n"}}, "items": {"id": [...], metric: [...], "gold_bits", "gold_bytes"}}, and its sidecar

    python eval/eval_pred.py                                              # all of $base_dir/output/predictions
    python eval/eval_pred.py --input_files output/predictions/rte_*.jsonl
    output_file_name=rte_checkpoint-1000.jsonl python eval/eval_pred.py   # one of them
    python eval/eval_pred.py --input_files tuned.jsonl --against base.jsonl        # and how much they differ
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics import item_metrics, paired_comparison
from eval.metrics.bootstrap import (
    NUM_RESAMPLES,
    Interval,
    Method,
    bootstrap_mean,
    bootstrap_table,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact, read_sidecar, sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, read_jsonl, write_json
from open_instruct.common.paths import metrics_file
from open_instruct.tasks import eval_set_named
from open_instruct.tasks.declarations import PRIMARY_METRICS

REQUIRED = {"generation": ("output",), "labels": ("output", "scores"), "text": ("gold_logprob",)}
NO_LABEL = ""
"""Stands for every answer that is no label: one more label, that is never right."""
OPTIONAL = ("gold_logprob", "finished")
"""A file has them on every record or on none; predictions made elsewhere may lack them."""


@dataclass(frozen=True)
class Args:
    input_files: tuple[Path, ...] = ()
    """Prediction files (default: $output_file_name if set, else all in $base_dir/output/predictions)."""
    num_resamples: int = NUM_RESAMPLES
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Of the resamples."""
    method: Method = "percentile"
    """Of the intervals: percentile, or bca (corrected for bias and skewness; macro F1 stays percentile)."""
    against: Path | None = None
    """Predictions of another model for the same items: each input file's difference from it is printed too."""
    differences_file: Path | None = None
    """Also write the differences, as JSON: {prediction: {metric: {"mean", "ci_low", …, "p_value"}}}."""
    overwrite: bool = False
    """Score files again that were scored with other arguments."""


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics file."""

    identity: Mapping[str, Any]
    """Of the predictions: model, evaluation set, format, protocol, kind, role, shots."""
    primary: str
    metrics: Mapping[str, Interval]
    items: Mapping[str, Sequence[Any]]
    """`id`, and beside it one number for each item and metric."""


def main(args: Args) -> None:
    files = args.input_files or files_from_environment()
    compared_with = (args.against,) if args.against else ()
    if args.differences_file and not args.against:
        raise UserError("--differences_file has no differences to hold; add --against another_model.jsonl")
    require_files((*files, *compared_with))
    scored = [path for path in files if score_file(path, args)]
    # Named files are always shown; of a whole folder only what is new, which keeps a second run to stat calls.
    print_table([load_metrics(metrics_file(path)) for path in (args.input_files or scored)])
    print(f"{len(scored)} scored, {len(files) - len(scored)} unchanged")
    if args.against:
        compare(files, args.against, args)


def compare(files: Sequence[Path], other: Path, args: Args) -> None:
    """Print, and where asked for write, each file's differences from `other` on the same items."""
    score_file(other, args)
    theirs = load_metrics(metrics_file(other))
    how: dict[str, Any] = {"seed": args.seed, "num_resamples": args.num_resamples, "method": args.method}
    found = {}
    for path in files:
        ours = load_metrics(metrics_file(path))
        sets = [result.identity["eval_set"] for result in (ours, theirs)]
        if sets[0] != sets[1]:
            raise UserError(f"{path} is of {sets[0]}, {other} of {sets[1]}; expected the same evaluation set")
        differences = paired_comparison.differences(ours.items, theirs.items, names=(path, other), **how)
        paired_comparison.print_differences(differences, (path, other))
        found[str(path)] = paired_comparison.as_json(differences)
    if args.differences_file:
        artifact = Artifact(args.differences_file, {"files": list(found), "against": str(other), **how_scored(args)})
        with artifact.making():
            write_json(args.differences_file, found)


def how_scored(args: Args) -> dict[str, Any]:
    """What decides the numbers. The default method is not named, as in files from before there was another."""
    named = {} if args.method == "percentile" else {"method": args.method}
    return {"num_resamples": args.num_resamples, "seed": args.seed} | named


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
            "`python eval/predict.py`, name some with --input_files, or set base_dir to where they lie"
        )
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise UserError(f"no such prediction file: {', '.join(missing)}; make it with `python eval/predict.py`")


def score_file(path: Path, args: Args) -> bool:
    """Write the metrics of one prediction file, unless they are there and up to date; whether it had to."""
    arguments = how_scored(args)
    inputs = {"predictions": path}
    if Artifact(metrics_file(path), arguments, inputs).is_done(overwrite=args.overwrite):
        return False
    identity = identify(path)
    records = read_predictions(path, identity["kind"])
    values = item_values(records, identity["kind"])
    result = Metrics(
        identity, PRIMARY_METRICS[identity["kind"]], summarise(records, values, identity["kind"], args), values
    )
    with Artifact(metrics_file(path), arguments, inputs, identity).making():
        write_json(metrics_file(path), as_json(result))
    return True


def identify(path: Path) -> dict[str, Any]:
    """Identity of a prediction file by its sidecar. Without one, the registry knows the kind of its dataset.

    Raises UserError for an empty file, and for a dataset or kind that nobody knows.
    """
    identity = read_sidecar(path)["identity"] if sidecar_path(path).is_file() else {}
    if "kind" not in identity:
        first = next(read_jsonl(path, ("dataset",)), None)
        if first is None:
            raise UserError(f"{path}: is empty; expected one prediction a line: make it again with eval/predict.py")
        try:
            eval_set = eval_set_named(first["dataset"])
        except UserError as error:
            raise UserError(f"{path}:1: no sidecar says what kind of task this is, and {error}") from error
        known = {"eval_set": eval_set.name, "kind": eval_set.kind, "role": eval_set.role}
        identity = {"model_id": path.stem, "format": None, "protocol": None, "shots": None} | known | identity
    if identity["kind"] not in PRIMARY_METRICS:
        raise UserError(
            f"{path}: kind {identity['kind']!r} in its sidecar; expected one of {', '.join(PRIMARY_METRICS)}"
        )
    return identity


def read_predictions(path: Path, kind: str) -> list[dict[str, Any]]:
    """Raises UserError with file:line where a record lacks a field of its kind, or holds what no model can have said.

    An id that occurs twice is refused too: models are compared item by item.
    """
    first = next(read_jsonl(path), {})
    required = ("dataset", "id", "completion", *REQUIRED[kind], *(name for name in OPTIONAL if name in first))
    cure = "make it again with `python eval/predict.py --overwrite`"
    records, seen = [], set()
    try:
        for number, record in enumerate(read_jsonl(path, required), start=1):
            problem = problem_of(record, kind)
            if record["id"] in seen:
                problem = f"id {record['id']!r} for the second time; expected each item once"
            if problem:
                raise UserError(f"{path}:{number}: found {problem}")
            seen.add(record["id"])
            records.append(record)
    except UserError as error:
        raise UserError(f"{error}; {cure}") from error
    if not records:
        raise UserError(f"{path}: is empty; expected one prediction a line: {cure}")
    return records


def problem_of(record: Mapping[str, Any], kind: str) -> str | None:
    """What is wrong with the values of one prediction, or None."""
    logprob = record.get("gold_logprob", 0.0)
    if not isinstance(logprob, int | float) or not math.isfinite(logprob) or logprob > 1e-3:
        return f"gold_logprob {logprob!r}; expected a log-likelihood, at most 0"
    if not isinstance(record["completion"], str) or not record["completion"]:
        return f"completion {record['completion']!r}; expected the gold text"
    if kind != "text" and not isinstance(record["output"], str):
        return f"output {record['output']!r}; expected text"
    if kind == "labels":
        gold, labels = record["completion"].strip(), [label.strip() for label in record["scores"]]
        # A text that was written freely (it has an end) may be no label; then it is wrong.
        answers = {gold} if "finished" in record else {gold, record["output"].strip()}
        if not answers <= set(labels) or len(labels) < 2:
            return f"gold {gold!r}, output {record['output']!r}; expected both among two or more labels: {labels}"
    return None


def item_values(records: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[Any]]:
    """Per-item arrays of a metrics file: `id`, the primary metric, and the code length of the gold completion."""
    gold = [record["completion"] for record in records]
    values: dict[str, list[Any]] = {"id": [record["id"] for record in records]}
    if kind == "generation":
        values["rouge_l"] = item_metrics.rouge_l([record["output"] for record in records], gold).tolist()
    if kind == "labels":
        values["accuracy"] = item_metrics.exact_match([record["output"] for record in records], gold).tolist()
    if "gold_logprob" in records[0]:
        values["gold_bits"] = item_metrics.bits([record["gold_logprob"] for record in records]).tolist()
        values["gold_bytes"] = item_metrics.utf8_lengths(gold).tolist()
    return values


def summarise(
    records: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[Any]], kind: str, args: Args
) -> dict[str, Interval]:
    """Every metric of this kind over all items, with its interval."""
    mean = partial(bootstrap_mean, seed=args.seed, num_resamples=args.num_resamples, method=args.method)
    outputs = [record.get("output", "").strip() for record in records]
    gold = [record["completion"].strip() for record in records]
    result = {}
    if kind == "generation":
        result["rouge_l"] = mean(values["rouge_l"])
        result["exact_match"] = mean(item_metrics.exact_match(outputs, gold))
    if kind == "labels":
        is_correct, num_labels = np.array(values["accuracy"]), [len(record["scores"]) for record in records]
        labels = {label.strip() for record in records for label in record["scores"]}
        confusion = item_metrics.confusion([output if output in labels else NO_LABEL for output in outputs], gold)
        result["accuracy"] = mean(is_correct)
        result["chance_corrected_accuracy"] = mean(item_metrics.chance_corrected(is_correct, num_labels))
        result["macro_f1"] = bootstrap_table(
            confusion, item_metrics.macro_f1, seed=args.seed, num_resamples=args.num_resamples
        )
    if "finished" in records[0]:
        result["finished"] = mean([float(record["finished"]) for record in records])
    if "gold_bits" in values:
        result["bits_per_byte"] = mean(values["gold_bits"], values["gold_bytes"])
    return result


def as_json(result: Metrics) -> dict[str, Any]:
    """JSON has no NaN: the spread of a single item is null."""
    intervals = {
        name: {key: None if math.isnan(value) else value for key, value in asdict(interval).items()}
        for name, interval in result.metrics.items()
    }
    return {"identity": result.identity, "primary": result.primary, "metrics": intervals, "items": result.items}


def load_metrics(path: Path) -> Metrics:
    """A finished metrics file.  Raises UserError where it has no sidecar or another layout."""
    read_sidecar(path)
    content = read_json(path)
    try:
        intervals = {name: interval_from(fields) for name, fields in content["metrics"].items()}
        return Metrics(content["identity"], content["primary"], intervals, content["items"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a metrics file ({error}); make it again with eval/eval_pred.py") from error


def interval_from(fields: Mapping[str, Any]) -> Interval:
    error, low, high = (
        math.nan if fields[key] is None else fields[key] for key in ("standard_error", "ci_low", "ci_high")
    )
    return Interval(fields["mean"], error, low, high, fields["n"])


def print_table(results: Sequence[Metrics]) -> None:
    """A line for each file: the primary metric with its interval, and bits per byte."""
    rows = [("model", "evaluated on", "shots", "n", "metric", "mean ± s.e. [95% interval]", "bits per byte ± s.e.")]
    for result in results:
        identity, primary = result.identity, result.metrics[result.primary]
        name = "_".join(
            str(part) for part in (identity["eval_set"], identity["format"]) if part not in (None, "default")
        )
        shown = f"{primary.mean:.4f} ± {primary.standard_error:.4f} [{primary.ci_low:.4f}, {primary.ci_high:.4f}]"
        bits = result.metrics.get("bits_per_byte")
        bits_shown = f"{bits.mean:.4f} ± {bits.standard_error:.4f}" if bits else "-"
        shots = str(identity.get("shots") or 0)
        rows.append((str(identity["model_id"]), name, shots, str(primary.n), result.primary, shown, bits_shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if results else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    run(main, Args)
