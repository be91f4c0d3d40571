"""Claims about the weights themselves: sensitivity to noise, and distance moved against gain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.inference import contrasts
from analysis.inference.claims import (
    KENDALL,
    Finding,
    change_by_checkpoint,
    direction_of,
    metric_on,
    number,
    rows_of,
    sign,
)
from analysis.tables.frames import (
    ALL_CHECKPOINTS,
    Tables,
    found_checkpoints,
    groups,
    in_order,
    select,
)
from eval.metrics.significance import trend

ALL_LAYERS = "all"


def noise_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Does the same noise cost more the longer the pre-training? Asked at one size, the middle one that was tried."""
    for (family, series, setting), rows in groups(tables.noise, "family", "series", "setting"):
        sizes = sorted(set(rows["size"]))
        size = sizes[len(sizes) // 2]
        of_size = in_order(select(rows, size=size))
        is_base = bool(of_size["train_set"].isna().all())
        models = "base models" if is_base else f"models fine-tuned on {series}"
        claim = f"noise of {size:g} of the weights costs {models} more bits per byte on {setting} with pre-training"
        first, last = of_size.iloc[0], of_size.iloc[-1]
        change, error = last["difference"] - first["difference"], float(np.hypot(first["std"], last["std"]))
        about: dict[str, Any] = {"series": series, "eval_set": setting, "metric": "bits_per_byte"}
        about |= {"checkpoint": last["checkpoint"], "claim": claim, "expected": 1}
        about |= {"effect": number(change), "ci_low": number(change - 1.96 * error)}
        about |= {"ci_high": number(change + 1.96 * error)}
        about |= {"missing": absent_from(tables, family, of_size)}
        family_of_claims = "noise: base" if is_base else "noise: fine-tuned"
        x, y = np.arange(len(of_size), dtype=float), of_size["difference"].to_numpy(float)
        yield over_checkpoints(family_of_claims, about, x, y)


def distance_and_gain(tables: Tables) -> Iterator[Finding]:
    """Where fine-tuning moves the weights further, does it gain more? Over checkpoints, on the task trained on."""
    moved = select(tables.distances, layer=ALL_LAYERS)
    for row in rows_of(tables, contrasts.FINE_TUNED_MINUS_BASE_MEAN, "in-domain"):
        of_series = select(moved, series=row["series"], family=row["family"])
        if row["format"] != "default" or of_series.empty:
            continue
        gains = change_by_checkpoint(tables, row).set_index("checkpoint")
        both = in_order(of_series).set_index("checkpoint").join(gains[["difference", "std"]]).dropna(subset="relative")
        both = both.dropna(subset="difference").reset_index()
        _, better = direction_of(row["metric"])
        claim = f"the further fine-tuning on {row['series']} moves the weights, the more it gains in {metric_on(row)}"
        about: dict[str, Any] = {"series": row["series"], "eval_set": row["eval_set"], "metric": "gain_by_distance"}
        about |= {"checkpoint": ALL_CHECKPOINTS, "claim": claim, "expected": 1}
        about |= {"missing": absent_from(tables, row["family"], both)}
        x, y = both["relative"].to_numpy(float), both["difference"].to_numpy(float) * better
        yield over_checkpoints("distance and gain", about | slope(x, y, both["std"].to_numpy(float)), x, y)


def slope(x: np.ndarray, y: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """Least squares, (checkpoints,): effect and 95% interval from the errors of y."""
    centred = x - x.mean() if len(x) else x
    if len(x) < 2 or not np.square(centred).sum():
        return dict.fromkeys(("effect", "ci_low", "ci_high"))
    weights = centred / np.square(centred).sum()
    effect, half = float(weights @ y), 1.96 * float(np.sqrt(np.square(weights * errors).sum()))
    return {"effect": effect, "ci_low": number(effect - half), "ci_high": number(effect + half)}


def absent_from(tables: Tables, family: str, rows: pd.DataFrame) -> str | None:
    """A claim over checkpoints needs every one that the tables hold."""
    found = set(rows["checkpoint"])
    absent = [name for name in found_checkpoints(tables.performance).get(family, []) if name not in found]
    return f"missing: checkpoint {', '.join(absent)}" if absent else None


def over_checkpoints(family: str, about: dict[str, Any], x: np.ndarray, y: np.ndarray) -> Finding:
    tested: dict[str, Any] = {"p_value": None, "n": len(y), "test": KENDALL, "direction": 0}
    # Less than three points have no order to speak of.
    if about["missing"] is None and about["effect"] is not None and len(y) >= 3 and np.ptp(x) > 0:
        found = trend(x, y)
        tested |= {"p_value": found.p_value, "direction": sign(found.tau)}
        tested |= {"note": f"; Kendall tau {found.tau:+.2f} over {len(y)} checkpoints"}
    return Finding(family=family, **about, **tested)
