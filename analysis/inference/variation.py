"""What varies in a study: items, fine-tuning seeds, pre-training runs and checkpoints, of scores and of gains.

A row for each series, setting, format and metric. Step 0, the random initialisation, is left out. Standard errors and
half widths are medians over checkpoints, standard deviations are root mean squares over them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference.power import smallest_detectable_effect
from analysis.tables.checkpoint_noise import checkpoint_noise
from analysis.tables.columns import VARIATION_COLUMNS, Comparison
from analysis.tables.frames import Tables, as_table, groups, number, select, where
from analysis.tables.replicates import FEWEST_REPLICATES, RUN

CURVE = ("series", "setting", "kind", "format", "metric")
ABOUT = ("family", "train_set", "eval_set", "role", "eval dataset")

ROUNDING = 1e-12
"""A standard deviation smaller than this, of scores of the order of 1, is rounding."""


def variation_table(tables: Tables) -> pd.DataFrame:
    """variation.csv.

    items, n         evaluated items, and the independent ones among them (clusters)
    item_error       standard error over items of one replicate's score
    seed_sd          between the scores of fine-tuning seeds of one run, on the same items
    run_sd           between pre-training runs (each the mean of its seeds), beyond what their items explain
    checkpoint_sd    of one checkpoint about its neighbours, signal: range of the curve; of each run and seed alone
    gain_…           of fine-tuned - base: replicate_sd between replicates beyond their items, shared_items the share of
                     its item error that is the same in all of them, next_half_width of the 95% prediction interval of
                     one further replicate
    smallest_gain    that as many replicates and items show with 80% power; empty with too few replicates to judge any
    """
    models = trained(tables.scores)
    seeds, courses = of_seeds(models), of_courses(models)
    items = {curve: whole_median(rows["n"]) for curve, rows in groups(models, *CURVE)}
    gains = {
        curve: of_gain(rows)
        for curve, rows in groups(trained(select(tables.differences, comparison=Comparison.CHANGE)), *CURVE)
    }
    rows = []
    for curve, of_curve in groups(trained(tables.levels), *CURVE):
        first = of_curve.to_dict("records")[0]
        row = dict(zip(CURVE, curve, strict=True)) | {name: first[name] for name in (*ABOUT, "unit", "replicates")}
        row |= {
            "items": items.get(curve),
            "n": whole_median(of_curve["n"]),
            "item_error": median(of_curve["item_error"]),
            "seed_sd": seeds.get(curve),
        }
        row["run_sd"] = root_mean_square(of_curve["replicate_sd"]) if first["unit"] == RUN else None
        rows.append(row | courses.get(curve, {}) | gains.get(curve, {}))
    return as_table(rows, VARIATION_COLUMNS)


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    return where(frame, frame["checkpoint"] != "0")


def of_seeds(models: pd.DataFrame) -> dict[tuple[str, ...], float]:
    """Curve -> root mean square, over runs and checkpoints, of the SD between seeds."""
    variances: dict[tuple[str, ...], list[float]] = {}
    for names, rows in groups(models.assign(run=models["run"].fillna("")), *CURVE, "run", "checkpoint"):
        if len(rows) > 1:
            variances.setdefault(names[: len(CURVE)], []).append(float(rows["Performance"].to_numpy(float).var(ddof=1)))
    return {curve: float(np.sqrt(np.mean(found))) for curve, found in variances.items()}


def of_courses(models: pd.DataFrame) -> dict[tuple[str, ...], dict[str, float | None]]:
    """Curve -> checkpoint_sd, signal and their quotient, of each run and seed alone and then over these."""
    each = models.assign(run=models["run"].fillna(""), seed=models["seed"].fillna(-1))
    noise = pd.concat([checkpoint_noise(rows) for _, rows in groups(each, "run", "seed")] or [checkpoint_noise(each)])
    found = {}
    for curve, rows in groups(noise, *CURVE):
        sd, signal = root_mean_square(rows["checkpoint_sd"]), median(rows["signal"])
        ratio = signal / sd if sd and signal is not None else None
        found[curve] = {"checkpoint_sd": sd, "signal": signal, "signal_to_noise": ratio}
    return found


def of_gain(rows: pd.DataFrame) -> dict[str, float | None]:
    """The columns of a gain, from rows of paired_differences.csv."""
    measured = where(rows, rows["item_error"].notna())
    if measured.empty:
        return {}
    found: dict[str, float | None] = {
        "gain_item_error": median(measured["item_error"]),
        "gain_replicate_sd": root_mean_square(measured["replicate_sd"]),
        "gain_next_half_width": median((measured["next_high"] - measured["next_low"]) / 2),
        "gain_shared_items": median(shared_items(row) for row in measured.to_dict("records")),
    }
    replicates = median(measured["replicates"])
    if replicates and replicates >= FEWEST_REPLICATES:
        found["smallest_gain"] = smallest_gain(found | {"n": median(measured["n"])}, int(replicates))
    return found


def smallest_gain(row: Mapping[str, Any], replicates: int) -> float:
    """Smallest detectable gain by a row of variation.csv, with this number of replicates; NaN where nothing varies."""
    error, sd, shared = (number(row[f"gain_{name}"]) for name in ("item_error", "replicate_sd", "shared_items"))
    items = number(row["n"])
    if not error or sd is None:
        return np.nan
    shared, items = 1.0 if shared is None else shared, np.inf if items is None else items
    return smallest_detectable_effect(error, sd, replicates, items, shared=shared)


def shared_items(row: Mapping[str, Any]) -> float | None:
    """Share of the squared item error that the replicates share.

    With it the variance of the mean is that of replicates / R + item_error^2 (share + (1 - share) / R).
    """
    replicates, error = row["replicates"], number(row["item_error"])
    std, sd = number(row["std"]), number(row["replicate_sd"])
    if replicates < 2 or not error or std is None or sd is None:
        return None
    of_items = std**2 - sd**2 / replicates
    share = (of_items / error**2 - 1 / replicates) / (1 - 1 / replicates)
    return float(np.clip(share, 0.0, 1.0))


def present(values: Iterable[Any]) -> Iterator[float]:
    return (found for found in map(number, values) if found is not None)


def median(values: Iterable[Any]) -> float | None:
    found = list(present(values))
    return float(np.median(found)) if found else None


def whole_median(values: Iterable[Any]) -> int | None:
    found = median(values)
    return None if found is None else round(found)


def root_mean_square(values: Iterable[Any]) -> float | None:
    found = np.array(list(present(values)))
    return float(np.sqrt(np.mean(np.square(np.where(found < ROUNDING, 0.0, found))))) if len(found) else None
