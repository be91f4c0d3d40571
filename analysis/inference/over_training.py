"""Over-training: does fine-tuned quality fall after some checkpoint? (cf. arXiv 2503.19206)

The best checkpoint of a noisy curve looks better than it is, so that the last one always seems to have fallen. The last
checkpoint is therefore compared with each earlier one: it has fallen if the smallest of these p-values, corrected for
their number (Simes 1986), is small, and has not if it is better than each of them (the largest is small). Choosing the
best checkpoint on the other runs instead leaves no bias, but the runs' differences then depend on each other: of tests
at 5% up to 10% err with eight runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.inference.contrasts import Contrast, Curve, columns_of, last_minus_earlier
from analysis.inference.multiplicity import adjusted
from analysis.inference.plateau import Estimate
from analysis.tables.columns import LOWER_IS_BETTER, Comparison

FEWEST_CHECKPOINTS = 3


def last_minus_best(
    curve: Curve, task_format: str, dataset: str, metric: str, estimate: Estimate
) -> tuple[Contrast, dict[str, Any]]:
    """Last minus best earlier checkpoint, with the p-value of the choice; or `missing`: why there is none."""
    contrasts = last_minus_earlier(Comparison.LAST_MINUS_BEST, curve, task_format, dataset)
    about: dict[str, Any] = {"unit": curve.unit, "columns": columns_of(curve, task_format, dataset)}
    of_none = Contrast(Comparison.LAST_MINUS_BEST, curve.series, curve.checkpoints[-1], "", {}, **about)
    if len(curve.trained) < FEWEST_CHECKPOINTS or len(curve.replicates) < 2:
        found = f"{len(curve.trained)} checkpoints after step 0 in {len(curve.replicates)} replicates"
        return of_none, {"missing": f"{found}; {FEWEST_CHECKPOINTS} in 2 needed, since the best one is chosen"}
    results = estimate(contrasts)
    for result in results:
        if result.get("missing"):
            return of_none, result
    better = -1.0 if metric in LOWER_IS_BETTER else 1.0
    rises = better * np.array([result["difference"] for result in results])
    best = int(rises.argmin())
    p_value = p_of_choice(rises, [result["p_value"] for result in results])
    chosen = contrasts[best].reference
    note = f"best of {len(contrasts)} earlier checkpoints: {chosen}; the interval is that of this one alone"
    return replace(contrasts[best], note=note), results[best] | {"p_value": p_value}


def p_of_choice(rises: np.ndarray, p_values: Sequence[float]) -> float:
    """Two-sided p-value of a fall from some checkpoint (where one is above the last) or of a rise from all of them.

    rises     (earlier checkpoints,), last minus each
    p_values  theirs, two-sided
    """
    p = np.asarray(p_values, dtype=float)
    if (rises > 0).all():
        return float(p.max())
    of_falls = np.where(rises < 0, p / 2, 1 - p / 2)
    return min(2 * float(adjusted(of_falls).min()), 1.0)
