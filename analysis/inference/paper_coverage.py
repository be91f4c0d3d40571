"""Which published numbers a study measures too, and why it does not measure the others."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from analysis.tables.frames import is_empty
from analysis.tables.released import FAMILY
from open_instruct.checkpoints.families import step_name
from open_instruct.study.config import Study

Row = Mapping[Any, Any]
Key = tuple[Any, ...]
DIFFERENCES = {
    ("checkpoint",): "no model of step {checkpoint}",
    ("train_set",): "no model fine-tuned on {train_set}",
    ("epochs", "lr"): "no {train_set} model of {epochs} epochs with learning rate {lr:g}",
    ("kind", "eval_set"): "{evaluated} is not evaluated",
    ("format",): "{evaluated} is not evaluated in format {format}",
    ("shots",): "{evaluated} is not evaluated with {shots} shots",
    ("metric",): "{evaluated} has no {metric}",
}
"""Columns that a published number and one's own have in common, and what is said where only those before them agree."""
KEY = tuple(chain(*DIFFERENCES))


def key_of(row: Row) -> Key:
    """The model and its evaluation, equal for numbers that are compared."""
    return tuple(comparable(row[name]) for name in KEY)


def comparable(value: Any) -> Any:
    """An empty cell as None; a float rounded, so that a learning rate is equal however it was written."""
    return None if is_empty(value) else float(f"{value:.6g}") if isinstance(value, float) else value


class Measured:
    """The numbers that a table has, or that a study will have."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.beginnings = {key[:length] for key in keys for length in range(1, len(KEY) + 1)}

    def why_missing(self, row: Row) -> str | None:
        """Why no number is that of the published row; None where one is."""
        key, length = key_of(row), 0
        for columns, reason in DIFFERENCES.items():
            length += len(columns)
            if key[:length] not in self.beginnings:
                evaluated = f"{row['eval_set']}{' of the suite' if row['kind'] == 'suite' else ''}"
                return reason.format(**{**row, "evaluated": evaluated})
        return None


def planned_keys(study: Study) -> Iterator[Key]:
    """The numbers of a study's models of the released tables' family: of each evaluation its primary metric."""
    evaluations = []
    for one in study.evaluations():
        dataset = study.datasets.eval_set(one.eval_set)
        evaluation = {"kind": dataset.kind, "eval_set": one.eval_set, "format": one.task_format}
        evaluations.append(evaluation | {"shots": one.num_shots, "metric": dataset.metric})
    for variant in study.variants():
        if variant.checkpoint.family != FAMILY:
            continue
        model = variant.identity() | {"checkpoint": step_name(variant.checkpoint.step)}
        suite = {"kind": "suite", "format": "default", "metric": "acc"}
        tasks = [
            suite | {"shots": n, "eval_set": task} for n, files in study.suite_files(variant).items() for task in files
        ]
        yield from (key_of(model | evaluation) for evaluation in (*evaluations, *tasks))


def count_coverage(
    rows: Sequence[Row], measured: Measured
) -> tuple[dict[str, tuple[int, int]], Counter[tuple[str, str]]]:
    """Table -> (rows that are measured too, all rows), and (table, reason) -> rows that are not."""
    found: dict[str, tuple[int, int]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    for row in rows:
        table, why = str(row["source"]).partition(":")[0], measured.why_missing(row)
        covered, total = found.get(table, (0, 0))
        found[table] = covered + (why is None), total + 1
        if why is not None:
            reasons[table, why] += 1
    return found, reasons
