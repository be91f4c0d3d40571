"""Claims about the weights themselves: sensitivity to weight noise, and weight change against gain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.inference.finding import (
    KENDALL,
    Finding,
    change_by_checkpoint,
    checkpoints_of,
    direction_of,
    kendall,
    metric_on,
    missing_checkpoints,
    normal_interval,
    own_task_rows,
)
from analysis.tables.columns import ALL_CHECKPOINTS, ALL_LAYERS, BITS, Comparison
from analysis.tables.frames import Tables, groups, in_order, number, select

Array = npt.NDArray[np.float64]


def noise_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Does the same noise cost more after longer pre-training? Tested at the middle one of the noise sizes."""
    for (family, series, setting), rows in groups(tables.noise, "family", "series", "setting"):
        sizes = sorted(set(rows["size"]))
        size = sizes[len(sizes) // 2]
        of_size = in_order(select(rows, size=size))
        is_base = bool(of_size["train_set"].isna().all())
        models = "base models" if is_base else f"models fine-tuned on {series}"
        claim = (
            f"weight noise of size {size:g} raises bits per byte of {models} on {setting} more with longer pre-training"
        )
        first, last = of_size.iloc[0], of_size.iloc[-1]
        change, error = last["difference"] - first["difference"], float(np.hypot(first["std"], last["std"]))
        about = {"series": series, "eval_set": setting, "metric": BITS, "checkpoint": last["checkpoint"]}
        about |= {"claim": claim, "effect": number(change), **normal_interval(change, error)}
        about |= {"missing": missing_checkpoints(checkpoints_of(tables, family), of_size["checkpoint"])}
        x, y = np.arange(len(of_size), dtype=float), of_size["difference"].to_numpy(float)
        yield over_checkpoints("noise: base" if is_base else "noise: fine-tuned", about, x, y)


def distance_and_gain(tables: Tables) -> Iterator[Finding]:
    """Is a larger weight change accompanied by a larger gain? Over checkpoints, on the task trained on."""
    moved = select(tables.distances, layer=ALL_LAYERS)
    for row in own_task_rows(tables, Comparison.MEAN_CHANGE):
        of_series = select(moved, series=row["series"], family=row["family"])
        if of_series.empty:
            continue
        gains = change_by_checkpoint(tables, row).set_index("checkpoint")[["difference", "std"]]
        both = in_order(of_series).join(gains, on="checkpoint").dropna(subset=["relative", "difference"])
        _, better = direction_of(row["metric"])
        x, y = both["relative"].to_numpy(float), both["difference"].to_numpy(float) * better
        claim = (
            f"the larger the weight change by fine-tuning on {row['series']}, the larger the gain in {metric_on(row)}"
        )
        about = {"series": row["series"], "eval_set": row["eval_set"], "metric": "gain_by_distance", "claim": claim}
        about |= {"checkpoint": ALL_CHECKPOINTS, **slope(x, y, both["std"].to_numpy(float))}
        about |= {"missing": missing_checkpoints(checkpoints_of(tables, row["family"]), both["checkpoint"])}
        yield over_checkpoints("distance and gain", about, x, y)


def slope(x: Array, y: Array, errors: Array) -> dict[str, float | None]:
    """Least-squares slope over (checkpoints,) with a 95% interval from the errors of y."""
    centred = x - x.mean() if len(x) else x
    if len(x) < 2 or not np.square(centred).sum():
        return dict.fromkeys(("effect", "ci_low", "ci_high"))
    weights = centred / np.square(centred).sum()
    effect = float(weights @ y)
    return {"effect": effect, **normal_interval(effect, float(np.sqrt(np.square(weights * errors).sum())))}


def over_checkpoints(family: str, about: dict[str, Any], x: Array, y: Array) -> Finding:
    tested: dict[str, Any] = {"p_value": None, "n": len(y), "test": KENDALL, "direction": 0}
    if about["missing"] is None and about["effect"] is not None:
        tested |= kendall(x, y)
    return Finding(family=family, expected=1, **about, **tested)
