"""The result tables as data frames: their columns, how they are read, written, filtered and ordered."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.tasks import declarations as tasks

PERFORMANCE_TABLE = "all_perf_table.csv"
SUITE_TABLE = "official_eval_table.csv"
DIFFERENCE_TABLE = "paired_differences.csv"
MISSING_TABLE = "missing.csv"
SUMMARY_TABLE = "change_summary.csv"
GROUP_TABLE = "group_summary.csv"
TIDY_TABLE = "measurements.parquet"
NOISE_TABLE = "perturbation.csv"
DISTANCE_TABLE = "weight_distances.csv"

MEASURED = ("model_id", "eval dataset", "Performance", "std")
IDENTITY = ("family", "step", "tokens", "train_set", "format", "shots", "lr", "epochs", "seed")
PERFORMANCE_COLUMNS = (*MEASURED, *IDENTITY, "metric", "n", "ci_low", "ci_high", "protocol")
PERFORMANCE_COLUMNS += ("adapter", "eval_set", "kind", "role", "series", "setting", "checkpoint", "group")
PERFORMANCE_COLUMNS += ("source",)
DIFFERENCE_COLUMNS = ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric")
DIFFERENCE_COLUMNS += ("difference", "std", "ci_low", "ci_high", "p_value", "n", "family", "train_set", "eval_set")
DIFFERENCE_COLUMNS += ("format", "setting", "kind", "role", "missing")
MISSING_COLUMNS = ("model_id", "eval dataset", "reason", "file")
MODEL_COLUMNS = ("model_id", "family", "series", "train_set", "checkpoint", "tokens")
NOISE_COLUMNS = (*MODEL_COLUMNS, "setting", "size", "draws", "n", "bits_per_byte", "difference", "std")
NOISE_COLUMNS += ("ci_low", "ci_high", "source")
DISTANCE_COLUMNS = (*MODEL_COLUMNS, "layer", "weights", "distance", "base_norm", "relative", "source")
DIGITS = "%.12g"
"""The last digits of a float depend on the order of sums, and so on the number of cores."""
WHOLE_NUMBERS = ("step", "tokens", "shots", "epochs", "seed", "n")
REAL_NUMBERS = ("Performance", "std", "ci_low", "ci_high", "difference", "p_value", "lr")
REAL_NUMBERS += ("size", "bits_per_byte", "distance", "base_norm", "relative")

LOWER_IS_BETTER = frozenset({"bits_per_byte", "toxicity"})
METRIC_LABELS = {"rouge_l": "ROUGE-L", "accuracy": "accuracy", "bits_per_byte": "bits per byte", "acc": "accuracy"}
METRIC_LABELS |= {"skill": "gain for each unit of skill", "gain_by_distance": "gain for each unit of relative distance"}
METRIC_LABELS |= {
    "win_rate": "win rate in %",
    "toxicity": "share of toxic answers",
    "truthful": "share of true answers",
}
PRIMARY_METRICS = tasks.PRIMARY_METRICS | {"suite": "acc"}
IMPROVING, NOT_IMPROVING = "improving", "not improving"
ALL_CHECKPOINTS = "all"


@dataclass(frozen=True)
class Tables:
    """What findings, figures and report are made of."""

    performance: pd.DataFrame
    suites: pd.DataFrame
    differences: pd.DataFrame
    missing: pd.DataFrame
    noise: pd.DataFrame = field(default_factory=lambda: empty_table(NOISE_COLUMNS))
    """What noise on the weights costs; empty where that was not measured."""
    distances: pd.DataFrame = field(default_factory=lambda: empty_table(DISTANCE_COLUMNS))
    """How far fine-tuning moved each layer; empty where that was not measured."""


def read_tables(folder: Path) -> Tables:
    """The tables of a results folder.  Raises UserError where one is not there."""
    names = (PERFORMANCE_TABLE, SUITE_TABLE, DIFFERENCE_TABLE, MISSING_TABLE)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder}: no {', '.join(absent)}; make them with `python analysis/produce_tables.py`")
    further = {"noise": NOISE_TABLE, "distances": DISTANCE_TABLE}
    found = {key: read_table(folder / name) for key, name in further.items() if (folder / name).is_file()}
    return Tables(*(read_table(folder / name) for name in names), **found)


def table_files(folder: Path) -> dict[str, Path]:
    """The tables of a results folder that findings and figures are made of, by name."""
    names = (PERFORMANCE_TABLE, SUITE_TABLE, DIFFERENCE_TABLE, NOISE_TABLE, DISTANCE_TABLE)
    return {name: folder / name for name in names if (folder / name).is_file()}


def read_table(path: Path) -> pd.DataFrame:
    # Only an empty cell is missing: a model or an evaluation set may well be called `none` or `NA`.
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"checkpoint": object, "missing": object})
    return typed({str(name): frame[name].tolist() for name in frame.columns})


def as_table(rows: Iterable[Mapping[Any, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame with these columns, typed; a row that lacks one has an empty cell there."""
    rows = list(rows)
    return typed({name: [row.get(name) for row in rows] for name in columns})


@cache
def empty_table(columns: tuple[str, ...]) -> pd.DataFrame:
    return as_table([], columns)


def typed(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """Whole numbers stay whole beside empty cells; text is object with None."""
    return pd.DataFrame({name: typed_column(name, values) for name, values in columns.items()}, columns=list(columns))


def typed_column(name: str, values: list[Any]) -> pd.Series:
    if name in WHOLE_NUMBERS or name in REAL_NUMBERS:
        numbers = np.array([np.nan if is_empty(value) else float(value) for value in values], dtype=float)
        return pd.Series(numbers).astype("Int64") if name in WHOLE_NUMBERS else pd.Series(numbers)
    return pd.Series([None if is_empty(value) else value for value in values], dtype=object)


def is_empty(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def write_table(path: Path, frame: pd.DataFrame, inputs: Mapping[str, Path], arguments: Mapping[str, Any]) -> None:
    """CSV (or Parquet, by the name) with the same bytes for the same rows, and its sidecar."""
    with Artifact(path, arguments=arguments, inputs=inputs).making() as facts:
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False, compression="zstd")
        else:
            frame.to_csv(path, index=False, lineterminator="\n", float_format=DIGITS)
        facts["rows"] = len(frame)
    print(f"wrote {path} ({len(frame)} rows)")


def select(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows whose columns have these values; None stands for an empty cell, a list for any of its values."""
    mask = np.ones(len(frame), dtype=bool)
    for column, value in equal.items():
        found = frame[column]
        if value is None:
            mask &= np.asarray(found.isna(), dtype=bool)
        elif found.dtype == object and not isinstance(value, list):
            # The same as isin, without its overhead: small tables are selected from very often.
            mask &= np.asarray(found.to_numpy() == value, dtype=bool)
        else:
            mask &= np.asarray(found.isin(value if isinstance(value, list) else [value]), dtype=bool)
    return cast(pd.DataFrame, frame.loc[mask])


def where(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows for which `mask`, a Series or array (rows,), holds."""
    return cast(pd.DataFrame, frame.loc[np.asarray(mask, dtype=bool)])


def groups(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The values of `columns`, sorted, and the rows that have them."""
    for values, group in frame.groupby(list(columns), sort=True):
        yield cast(tuple[str, ...], values), group


def base_series(frame: pd.DataFrame, family: str) -> str | None:
    """The series of a family's base models, the usual one where there are several; None where the table has none."""
    found = cast(pd.Series, frame["series"][(frame["family"] == family) & frame["train_set"].isna()])
    return str(found.mode().iloc[0]) if len(found) else None


def found_checkpoints(performance: pd.DataFrame) -> dict[str, list[str]]:
    """All checkpoints that a table holds, for each family."""
    found: dict[str, set[str]] = {}
    for family, checkpoint in set(zip(performance["family"], performance["checkpoint"], strict=True)):
        if isinstance(family, str):
            found.setdefault(family, set()).add(checkpoint)
    return {family: order_checkpoints(found[family]) for family in sorted(found)}


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
    return PRIMARY_METRICS[kind]


def primary_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each evaluation's main metric; an evaluation without the one of its kind keeps what it has."""
    wanted = frame["kind"].map(primary_metric)
    has_primary = set(frame.loc[frame["metric"] == wanted, "eval dataset"])
    alone = ~frame["eval dataset"].isin(list(has_primary))
    return cast(pd.DataFrame, frame.loc[(frame["metric"] == wanted) | alone])


def usual(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the settings and recipes that few rows have, where the usual one is there too; the appendix has all."""
    columns = ("setting", "eval_set", "family", "train_set", "series")
    rows = list(zip(*(frame[name].tolist() for name in columns), strict=True))
    plain_settings = {eval_set for setting, eval_set, *_ in rows if setting == eval_set}
    plain_models = {(family, train_set) for _, _, family, train_set, series in rows if not is_varied(series)}
    is_usual = [
        (setting == eval_set or eval_set not in plain_settings)
        and not (is_varied(series) and (family, train_set) in plain_models)
        for setting, eval_set, family, train_set, series in rows
    ]
    return where(frame, np.array(is_usual, dtype=bool))


def is_varied(series: str) -> bool:
    """Whether a series is named by more than its train set: `mnli lr=2e-05`."""
    return "=" in series
