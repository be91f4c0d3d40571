"""Over-training: does fine-tuned quality fall after some checkpoint? (cf. arXiv 2503.19206)

The best checkpoint of a noisy curve looks better than it is, so that the last one always seems to have fallen. Here the
best checkpoint is chosen on the other replicates and on the other half of the items (runs share their items' noise),
and the fall from it to the last checkpoint is measured where it was not chosen.
"""

from collections import Counter
from typing import Any

import numpy as np

from analysis.inference.contrasts import Curve
from analysis.inference.crossed import crossed_effects
from analysis.inference.estimates import rows_of, without_noise
from analysis.inference.item_values import ItemValues
from analysis.tables.columns import LOWER_IS_BETTER

FEWEST_CHECKPOINTS = 3


def last_minus_peak(items: ItemValues, curve: Curve, task_format: str, metric: str) -> dict[str, Any]:
    """Estimate of last minus best checkpoint, or `missing`: why there is none."""
    names, replicates = curve.trained, curve.replicates
    if len(names) < FEWEST_CHECKPOINTS or len(replicates) < 2:
        return {
            "missing": f"{len(names)} checkpoints after step 0 in {len(replicates)} replicates; "
            f"{FEWEST_CHECKPOINTS} in 2 needed, since the best one is chosen on other runs"
        }
    keys = [curve.cell(name, task_format) for name in names]
    if problem := items.problem(keys, replicates) or items.fault(keys, replicates):
        return {"missing": problem}
    shared = items.about(keys, replicates)
    values = items.values(keys, replicates)  # (checkpoints, replicates, items)
    weights = np.ones(values.shape[2]) if shared.weights is None else shared.weights
    codes = np.arange(values.shape[2]) if shared.clusters is None else shared.clusters
    if values.shape[2] < 2:
        return {"missing": "one item: it cannot be split in two halves"}
    better = -1.0 if metric in LOWER_IS_BETTER else 1.0
    difference = np.zeros(values.shape[1:])
    peaks: Counter[str] = Counter()
    for half in (0, 1):
        inside = codes % 2 == half
        level = better * values[:, :, ~inside].sum(axis=2) / weights[~inside].sum()  # (checkpoints, replicates)
        for r in range(len(replicates)):
            peak = int(np.delete(level, r, axis=1).mean(axis=1).argmax())
            peaks[names[peak]] += 1
            difference[r, inside] = values[-1, r, inside] - values[peak, r, inside]
    note = "best checkpoint on other runs: " + ", ".join(f"{name} ({peaks[name]})" for name in names if peaks[name])
    difference = without_noise(difference, values)
    if not difference.any():
        return {"difference": 0.0, "p_value": 1.0, "replicates": len(replicates), "n": len(weights), "note": note}
    effects = crossed_effects(difference[None], shared.weights, shared.clusters)
    return rows_of(effects)[0] | {"note": note}
