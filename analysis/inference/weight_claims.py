"""Claims about the weights themselves: sensitivity to weight noise, and weight change against gain."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from analysis.inference.contrasts import slope_weights
from analysis.inference.estimates import from_replicates
from analysis.inference.finding import Finding, direction_of, finding, metric_on, own_task_rows
from analysis.tables.columns import ALL_LAYERS, BITS, Comparison
from analysis.tables.frames import Tables, groups, in_order, is_empty, select

FEWEST_FOR_CORRELATION = 4
"""With three replicates a correlation has one degree of freedom."""
NOTHING: dict[str, Any] = dict.fromkeys(
    ("ci_low", "ci_high", "p_value", "df", "next_low", "next_high", "n", "note", "missing", "difference", "unit")
)


def noise_sensitivity(tables: Tables) -> Iterator[Finding]:
    """Does the same noise cost more after longer pre-training? At the middle one of the noise sizes."""
    for (_, series, setting), rows in groups(tables.noise, "family", "series", "setting"):
        sizes = sorted(set(rows["size"]))
        size = sizes[len(sizes) // 2]
        of_size = select(rows, size=size)
        is_base = bool(of_size["train_set"].isna().all())
        models = "base models" if is_base else f"models fine-tuned on {series}"
        claim = (
            f"weight noise of size {size:g} raises bits per byte of {models} on {setting} more with longer pre-training"
        )
        quantity = f"change of the cost in bits per byte of weight noise of size {size:g} in {models} on {setting}"
        row = NOTHING | {"series": series, "train_set": of_size["train_set"].iloc[0], "eval_set": setting}
        row |= {"metric": BITS, "checkpoint": in_order(of_size)["checkpoint"].iloc[-1], "replicates": 1}
        slopes, errors = [], []
        expected = {*of_size["checkpoint"], *select(tables.levels, series=series)["checkpoint"]} - {"0"}
        for (replicate,), of_replicate in groups(
            of_size.assign(replicate=of_size["replicate"].fillna("")), "replicate"
        ):
            trained = in_order(select(of_replicate, checkpoint=sorted(expected)))
            if set(trained["checkpoint"]) != expected:
                row["missing"] = f"missing: checkpoints {', '.join(sorted(expected - set(trained['checkpoint'])))}"
                row["missing"] += f" of {replicate}" if replicate else ""
                break
            tokens = {c: float(np.log2(t)) for c, t in zip(trained["checkpoint"], trained["tokens"], strict=True)}
            weights = np.array(list(slope_weights(tokens).values()))
            if len(weights) == 0:
                row["missing"] = f"{len(tokens)} checkpoints after step 0; 3 needed"
                break
            slopes.append(float(weights @ trained["difference"].to_numpy(float)))
            errors.append(float(np.square(weights * trained["std"].to_numpy(float)).sum()))
        else:
            unit = of_size["unit"].iloc[0]
            of_draws = np.mean(errors) if len(slopes) == 1 else 0.0
            row |= from_replicates(np.array([slopes]), np.array([of_draws]))[0]
            row |= {"unit": None if is_empty(unit) else unit, "note": "items and draws of the noise are fixed"}
        yield finding("weight noise", claim, f"{quantity}, per doubling of the pre-training tokens", row, expected=1)


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
        distance = {
            "" if is_empty(replicate) else replicate: value
            for replicate, value in select(of_series, checkpoint=row["checkpoint"])[
                ["replicate", "relative"]
            ].itertuples(index=False, name=None)
        }
        gains = gains_by_replicate(tables, row)
        both = sorted(set(distance) & set(gains))
        x, y = np.array([distance[name] for name in both]), np.array([gains[name] for name in both])
        claim = (
            f"the larger the weight change by fine-tuning on {row['series']}, the larger the gain in {metric_on(row)}"
        )
        quantity = f"correlation of weight change and gain in {metric_on(row)} by fine-tuning on {row['series']}"
        found = row | NOTHING | {"replicates": len(both), "unit": row["unit"], "metric": "correlation"}
        if len(both) < FEWEST_FOR_CORRELATION or np.ptp(x) == 0 or np.ptp(y) == 0:
            found["missing"] = (
                f"{len(both)} replicates at checkpoint {row['checkpoint']}; {FEWEST_FOR_CORRELATION} needed"
            )
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
