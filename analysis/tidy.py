"""The result tables as data frames: their columns, how they are read and written, what series and settings are called.

A series is one curve over checkpoints: a family's base models, or those fine-tuned by one recipe. A setting is one way
of asking: an evaluation set, with shots and protocol where a table holds several. Both are named by what differs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from open_instruct.records import Artifact, UserError

PERFORMANCE_TABLE = "all_perf_table.csv"
SUITE_TABLE = "official_eval_table.csv"
DIFFERENCE_TABLE = "paired_differences.csv"
MISSING_TABLE = "missing.csv"
SUMMARY_TABLE = "change_summary.csv"

MEASURED = ("model_id", "eval dataset", "Performance", "std")
IDENTITY = ("family", "step", "tokens", "train_set", "format", "shots", "lr", "epochs", "seed")
PERFORMANCE_COLUMNS = (*MEASURED, *IDENTITY, "metric", "n", "ci_low", "ci_high", "protocol")
PERFORMANCE_COLUMNS += ("adapter", "eval_set", "kind", "role", "series", "setting", "checkpoint")
DIFFERENCE_COLUMNS = ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric")
DIFFERENCE_COLUMNS += ("difference", "std", "ci_low", "ci_high", "p_value", "n", "family", "train_set", "eval_set")
DIFFERENCE_COLUMNS += ("format", "setting", "kind", "role", "missing")
MISSING_COLUMNS = ("model_id", "eval dataset", "reason", "file")
SUMMARY_COLUMNS = ("series", "eval dataset", "metric", "checkpoints", "mean raw change", "mean relative change")
SUMMARY_COLUMNS += ("base slope per checkpoint", "fine-tuned slope per checkpoint")
WHOLE_NUMBERS = ("step", "tokens", "shots", "epochs", "seed", "n")
REAL_NUMBERS = ("Performance", "std", "ci_low", "ci_high", "difference", "p_value", "lr")

LOWER_IS_BETTER = frozenset({"bits_per_byte"})
METRIC_LABELS = {"rouge_l": "ROUGE-L", "accuracy": "accuracy", "bits_per_byte": "bits per byte", "acc": "accuracy"}
ALL_CHECKPOINTS = "all"


@dataclass(frozen=True)
class Tables:
    """What findings, figures and report are made of."""

    performance: pd.DataFrame
    suites: pd.DataFrame
    differences: pd.DataFrame
    missing: pd.DataFrame


def read_tables(folder: Path) -> Tables:
    """The tables of a results folder.  Raises UserError where one is not there."""
    names = (PERFORMANCE_TABLE, SUITE_TABLE, DIFFERENCE_TABLE, MISSING_TABLE)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder}: no {', '.join(absent)}; make them with `python analysis/produce_tables.py`")
    return Tables(*(read_table(folder / name) for name in names))


def read_table(path: Path) -> pd.DataFrame:
    # Only an empty cell is missing: a model or an evaluation set may well be called `none` or `NA`.
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"checkpoint": object, "missing": object})
    return as_table(frame.to_dict("records"), tuple(frame.columns))


def as_table(rows: Iterable[Mapping[Any, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame with these columns; whole numbers stay whole beside empty cells, and text is object with None."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for name in columns:
        if name in WHOLE_NUMBERS:
            frame[name] = frame[name].astype("Int64")
        else:
            values = [None if pd.isna(value) else value for value in frame[name]]
            frame[name] = pd.Series(values, dtype=float if name in REAL_NUMBERS else object)
    return frame


def write_table(path: Path, frame: pd.DataFrame, inputs: Mapping[str, Path], arguments: Mapping[str, Any]) -> None:
    """CSV with the same bytes for the same rows, and its sidecar."""
    with Artifact(path, arguments=arguments, inputs=inputs).making() as facts:
        frame.to_csv(path, index=False, lineterminator="\n")
        facts["rows"] = len(frame)
    print(f"wrote {path} ({len(frame)} rows)")


def name_series(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `series`, `setting` and `checkpoint` to rows that hold the identity of a model and of its evaluation."""
    several_families = len({row["family"] for row in rows}) > 1
    conditions_of: dict[str, dict[str, set[Any]]] = {}
    for row in rows:
        found = conditions_of.setdefault(row["kind"], {"shots": set(), "protocol": set()})
        for key in found:
            found[key].add(row[key])
    recipes: dict[tuple[Any, ...], dict[str, set[Any]]] = {}
    for row in rows:
        varying = recipes.setdefault((row["family"], row["train_set"]), {})
        for key in ("lr", "epochs", "seed", "adapter"):
            varying.setdefault(key, set()).add(row[key])
    named = []
    for row in rows:
        varying = recipes[row["family"], row["train_set"]]
        details = [f"{key}={row[key]}" for key, found in varying.items() if len(found) > 1]
        prefix = [row["family"]] if several_families else []
        # A folder without sidecar belongs to no curve: it stands alone, under its own name.
        series = " ".join([*prefix, row["train_set"] or "base", *details]) if row["family"] else row["model_id"]
        conditions = [f"{row[key]} {key}" for key, found in conditions_of[row["kind"]].items() if len(found) > 1]
        setting = " ".join([row["eval_set"], *conditions])
        checkpoint = "main" if row["step"] is None else str(row["step"])
        named.append({**row, "series": series, "setting": setting, "checkpoint": checkpoint})
    return named


def select(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows whose columns have these values; None stands for an empty cell, a list for any of its values."""
    mask = np.ones(len(frame), dtype=bool)
    for column, value in equal.items():
        found = frame[column]
        wanted = value if isinstance(value, list) else [value]
        mask &= np.asarray(found.isna() if value is None else found.isin(wanted), dtype=bool)
    return cast(pd.DataFrame, frame.loc[mask])


def groups(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The values of `columns`, sorted, and the rows that have them."""
    for values, group in frame.groupby(list(columns), sort=True):
        yield cast(tuple[str, ...], values), group


def base_series(frame: pd.DataFrame, family: str) -> str | None:
    """The series of a family's base models; None where the table has none."""
    found = select(frame, family=family, train_set=None)
    return str(found["series"].iloc[0]) if len(found) else None


def order_checkpoints(names: Iterable[str]) -> list[str]:
    """Ascending by step, each once; `main`, the end of pre-training, comes last."""
    return sorted(set(names), key=lambda name: (name == "main", 0 if name == "main" else int(name)))


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by ascending checkpoint."""
    rank = {name: i for i, name in enumerate(order_checkpoints(frame["checkpoint"]))}
    order = np.argsort([rank[name] for name in frame["checkpoint"]], kind="stable")
    return cast(pd.DataFrame, frame.iloc[order])


def relation(role: str, train_set: str) -> str:
    """What an evaluation set is to a train set: in-domain, out-of-domain, pre-training or other."""
    kind, _, of = role.partition(" of ")
    return kind if of in ("", train_set) else "other"


def primary_metric(kind: str) -> str:
    """Of a kind of evaluation set, as its tables name it."""
    return {"generation": "rouge_l", "labels": "accuracy", "text": "bits_per_byte", "suite": "acc"}[kind]


def summarise_changes(differences: pd.DataFrame, performance: pd.DataFrame) -> pd.DataFrame:
    """Mean raw change, mean relative change and slope per checkpoint of every fine-tuned series and evaluation.

    `differences` are fine-tuned minus base, a row for each checkpoint. The mean relative change is the mean over
    checkpoints of change / base. Series that lack a checkpoint are left out: missing.csv has them.
    """
    rows = []
    for (series, setting, task_format, metric), group in groups(differences, "series", "setting", "format", "metric"):
        ordered = in_order(group)
        change = ordered["difference"].to_numpy(float)
        if np.isnan(change).any():
            continue
        where = {"series": ordered["reference"].iloc[0], "setting": setting, "format": task_format, "metric": metric}
        base_rows = select(performance, **where).set_index("checkpoint")["Performance"]
        base = base_rows.loc[list(ordered["checkpoint"])].to_numpy(float)
        enough, index = len(change) > 1, np.arange(len(change))
        rows.append(
            {
                "series": series,
                "eval dataset": ordered["eval dataset"].iloc[0],
                "metric": metric,
                "checkpoints": len(change),
                "mean raw change": float(change.mean()),
                "mean relative change": float(np.mean(change / base)) if (base != 0).all() else None,
                "base slope per checkpoint": float(np.polyfit(index, base, 1)[0]) if enough else None,
                "fine-tuned slope per checkpoint": float(np.polyfit(index, base + change, 1)[0]) if enough else None,
            }
        )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))
