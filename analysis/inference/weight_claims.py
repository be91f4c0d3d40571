"""Claims about the weights themselves: sensitivity to weight noise, and weight change against gain."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference.contrasts import FEWEST_IN_A_SLOPE, slope_weights
from analysis.inference.estimates import from_replicates
from analysis.inference.finding import Finding, direction_of, finding, metric_on, own_task_rows
from analysis.tables.columns import ALL_LAYERS, BITS, Comparison
from analysis.tables.frames import Tables, groups, in_order, is_empty, select, where

FEWEST_FOR_CORRELATION = 4
"""With three replicates a correlation has one degree of freedom."""
NOTHING: dict[str, Any] = dict.fromkeys(
    ("ci_low", "ci_high", "p_value", "df", "next_low", "next_high", "n", "note", "missing", "difference", "unit")
)


def noise_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Does the same noise cost more after longer pre-training? At the middle one of the noise sizes."""
    for (family, series, setting), rows in groups(tables.noise, "family", "series", "setting"):
        sizes = sorted(set(rows["size"]))
        size = sizes[len(sizes) // 2]
        of_size = select(rows, size=size)
        is_base = bool(of_size["train_set"].isna().all())
        models = f"{series} models" if is_base else f"models fine-tuned on {series}"
        claim = (
            f"weight noise of size {size:g} raises bits per byte of {models} on {setting} more with longer pre-training"
        )
        quantity = f"change of the cost in bits per byte of weight noise of size {size:g} in {models} on {setting}"
        row = NOTHING | {"series": series, "train_set": of_size["train_set"].iloc[0], "eval_set": setting}
        row |= {
            "family": family,
            "metric": BITS,
            "checkpoint": in_order(of_size)["checkpoint"].iloc[-1],
            "replicates": 1,
        }
        slopes, errors = [], []
        expected = {*of_size["checkpoint"], *select(tables.levels, series=series)["checkpoint"]} - {"0"}
        of_size = of_size.assign(replicate=of_size["replicate"].fillna(""))
        absent = set(select(tables.scores, series=series)["replicate"].fillna("")) - set(of_size["replicate"])
        if absent:
            row["missing"] = f"missing: {', '.join(sorted(absent))}"
        for (replicate,), of_replicate in [] if absent else groups(of_size, "replicate"):
            trained = in_order(select(of_replicate, checkpoint=sorted(expected)))
            row["missing"] = why_no_slope(trained, expected, replicate)
            if row["missing"]:
                break
            # Seeds of one run are averaged.
            found = [
                (float(np.log2(rows["tokens"].iloc[0])), rows["difference"].mean(), np.square(rows["std"]).mean())
                for _, rows in groups(trained, "checkpoint")
            ]
            doublings, change, variance = np.array(found, dtype=float).T
            weights = np.array(list(slope_weights({str(i): x for i, x in enumerate(doublings)}).values()))
            slopes.append(float(weights @ change))
            errors.append(float(np.square(weights) @ variance))
        if row["missing"] is None:
            unit = of_size["unit"].iloc[0]
            of_draws = np.mean(errors) if len(slopes) == 1 else 0.0
            row |= from_replicates(np.array([slopes]), np.array([of_draws]))[0]
            fixed = "items" if len(slopes) == 1 else "items and draws of the noise"
            row |= {"unit": None if is_empty(unit) else unit, "note": f"{fixed} are fixed"}
        yield finding("weight noise", claim, f"{quantity}, per doubling of the pre-training tokens", row, expected=1)


def why_no_slope(trained: pd.DataFrame, expected: Collection[str], replicate: str) -> str | None:
    """Why the checkpoints after step 0 of one replicate have no slope, or None."""
    of = f" of {replicate}" if replicate else ""
    if absent := set(expected) - set(trained["checkpoint"]):
        return f"missing: checkpoints {', '.join(sorted(absent))}{of}"
    if len(set(Counter(trained["checkpoint"]).values())) > 1:
        return f"missing: a seed at some checkpoint{of}"
    if unknown := set(where(trained, trained["tokens"].isna())["checkpoint"]):
        return f"the tokens of {', '.join(sorted(unknown))} are not known"
    if len(expected) < FEWEST_IN_A_SLOPE:
        return f"{len(expected)} checkpoints after step 0; {FEWEST_IN_A_SLOPE} needed"
    return None


def distance_and_gain(tables: Tables) -> Iterator[Finding]:
    """Is a larger weight change accompanied by a larger gain? Over replicates at the last checkpoint.

    Never along one course of pre-training: any two quantities that change steadily are correlated over checkpoints.
    """
    moved = {
        place: in_order(rows) for place, rows in groups(select(tables.distances, layer=ALL_LAYERS), "series", "family")
    }
    for row in own_task_rows(tables, Comparison.CHANGE):
        of_series = moved.get((row["series"], row["family"]))
        if of_series is None or row["checkpoint"] != of_series["checkpoint"].iloc[-1]:
            continue
        at_last = select(of_series, checkpoint=row["checkpoint"])
        # Seeds of one run are averaged.
        by_replicate = groups(at_last.assign(replicate=at_last["replicate"].fillna("")), "replicate")
        relative = {name: rows["relative"].to_numpy(float) for (name,), rows in by_replicate}
        distance = {name: float(values.mean()) for name, values in relative.items()}
        num_seeds = {len(values) for values in relative.values()}
        gains = gains_by_replicate(tables, row)
        both = sorted(set(distance) & set(gains))
        x, y = np.array([distance[name] for name in both]), np.array([gains[name] for name in both])
        claim = (
            f"the larger the weight change by fine-tuning on {row['series']}, the larger the gain in {metric_on(row)}"
        )
        quantity = f"correlation of weight change and gain in {metric_on(row)} by fine-tuning on {row['series']}"
        found = row | NOTHING | {"replicates": len(both), "unit": row["unit"], "metric": "correlation"}
        if not is_empty(row["missing"]):
            found["missing"] = row["missing"]
        elif len(num_seeds) > 1:
            found["missing"] = f"missing: the weight change of a seed at checkpoint {row['checkpoint']}"
        elif len(both) < FEWEST_FOR_CORRELATION:
            found["missing"] = (
                f"{len(both)} replicates at checkpoint {row['checkpoint']}; {FEWEST_FOR_CORRELATION} needed"
            )
        elif np.ptp(x) == 0 or np.ptp(y) == 0:
            found["missing"] = f"{'weight change' if np.ptp(x) == 0 else 'gain'} is the same in all replicates"
        else:
            result: Any = stats.pearsonr(x, y)
            low, high = result.confidence_interval()
            found |= {"difference": result.statistic, "p_value": result.pvalue, "ci_low": low, "ci_high": high}
            found["df"] = len(both) - 2
        yield finding("distance and gain", claim, quantity, found, expected=1)


def gains_by_replicate(tables: Tables, row: dict[Any, Any]) -> dict[str, float]:
    """Replicate -> improvement by fine-tuning, of one row of paired_differences.csv."""
    _, better = direction_of(row["metric"])
    levels = select(tables.performance, **{name: row[name] for name in ("setting", "format", "metric", "checkpoint")})
    of_series: dict[str, dict[str, float]] = {}
    for series in (row["series"], row["reference"]):
        rows = select(levels, series=series)
        several: dict[str, list[float]] = {}
        for replicate, value in zip(rows["replicate"].fillna(""), rows["Performance"], strict=True):
            several.setdefault(str(replicate), []).append(float(value))
        of_series[series] = {name: float(np.mean(values)) for name, values in several.items()}
    tuned, base = of_series[row["series"]], of_series[row["reference"]]
    return {
        name: better * (value - base[name if name in base else ""])
        for name, value in tuned.items()
        if name in base or "" in base
    }
