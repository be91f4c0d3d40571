"""Read and validate prediction files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.data.registry import read_datasets
from open_instruct.tasks.declarations import PRIMARY_METRICS

REQUIRED = {"generation": ("output",), "labels": ("output", "scores"), "text": ("gold_logprob",)}
"""Kind -> the fields that a model adds to each record."""
OPTIONAL = ("gold_logprob", "finished")
"""Fields of all records of a file or of none: predictions made elsewhere may lack them."""
FIX = "make it again with `python eval/predict.py --overwrite`"


def identify_predictions(path: Path) -> dict[str, Any]:
    """Identity of a prediction file from its sidecar; without one, from its records' `dataset` and the task registry.

    Raises UserError for an empty file, an unknown dataset and an unknown kind.
    """
    identity = read_sidecar(path)["identity"] if has_sidecar(path) else {}
    if "kind" not in identity:
        first = next(read_jsonl(path, texts=("dataset",)), None)
        if first is None:
            raise UserError(
                f"{path}: is empty; expected one prediction a line: make it again with `python eval/predict.py`"
            )
        try:
            eval_set = read_datasets().eval_set(first["dataset"])
        except UserError as error:
            raise UserError(f"{path}:1: no sidecar that names the kind of task, and {error}") from error
        known = {"eval_set": eval_set.name, "kind": eval_set.kind, "role": eval_set.role}
        identity = {"model_id": path.stem, "format": None, "protocol": None, "shots": None} | known | identity
    if identity["kind"] not in PRIMARY_METRICS:
        raise UserError(
            f"{path}: kind {identity['kind']!r} in its sidecar; expected one of {', '.join(PRIMARY_METRICS)}"
        )
    return identity


def read_predictions(path: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a prediction file.

    Raises UserError with file:line where a record lacks a field of its kind, has an impossible value, or repeats an id:
    models are compared item by item.
    """
    first = next(read_jsonl(path), {})
    required = ("dataset", "id", *REQUIRED[kind], *(name for name in OPTIONAL if name in first))
    texts = ("completion",) if kind == "text" else ("completion", "output")
    records, seen = [], set()
    try:
        for number, record in enumerate(read_jsonl(path, required, texts=texts), start=1):
            problem = problem_of(record, kind)
            if problem is None and record["id"] in seen:
                problem = f"id {record['id']!r} for the second time; expected each item once"
            if problem:
                raise UserError(f"{path}:{number}: found {problem}")
            seen.add(record["id"])
            records.append(record)
    except UserError as error:
        raise UserError(f"{error}; {FIX}") from error
    if not records:
        raise UserError(f"{path}: is empty; expected one prediction a line: {FIX}")
    return records


def problem_of(record: Mapping[str, Any], kind: str) -> str | None:
    """What is wrong with the values of one prediction, or None."""
    if not isinstance(record["id"], str | int):
        return f"id {record['id']!r}; expected text or a number"
    if not is_number(logprob := record.get("gold_logprob", 0.0)) or logprob > 1e-3:
        return f"gold_logprob {logprob!r}; expected a log-likelihood, at most 0"
    if not record["completion"]:
        return f"completion {record['completion']!r}; expected the gold text"
    if not isinstance(record.get("finished", True), bool):
        return f"finished {record['finished']!r}; expected true or false"
    if kind == "labels":
        scores = record["scores"]
        if not isinstance(scores, dict) or not all(map(is_number, scores.values())):
            return f"scores {scores!r}; expected label: log-likelihood"
        gold, labels = record["completion"].strip(), [label.strip() for label in scores]
        # The output of a free generation ("finished" is recorded) need not be a label; then it is wrong.
        expected = {gold} if "finished" in record else {gold, record["output"].strip()}
        if not expected <= set(labels) or len(labels) < 2:
            return f"gold {gold!r}, output {record['output']!r}; expected both among two or more labels: {labels}"
    return None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
