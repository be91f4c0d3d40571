"""Read and validate prediction files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import read_sidecar, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.tasks import eval_set_named
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
    identity = read_sidecar(path)["identity"] if sidecar_path(path).is_file() else {}
    if "kind" not in identity:
        first = next(read_jsonl(path, ("dataset",)), None)
        if first is None:
            raise UserError(f"{path}: is empty; expected one prediction a line: make it again with eval/predict.py")
        try:
            eval_set = eval_set_named(first["dataset"])
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
    required = ("dataset", "id", "completion", *REQUIRED[kind], *(name for name in OPTIONAL if name in first))
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
        raise UserError(f"{error}; {FIX}") from error
    if not records:
        raise UserError(f"{path}: is empty; expected one prediction a line: {FIX}")
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
        # The output of a free generation ("finished" is recorded) need not be a label; then it is wrong.
        expected = {gold} if "finished" in record else {gold, record["output"].strip()}
        if not expected <= set(labels) or len(labels) < 2:
            return f"gold {gold!r}, output {record['output']!r}; expected both among two or more labels: {labels}"
    return None
