"""Standard errors and 95% intervals of numbers whose items are not recorded."""

import math

from scipy import stats

Z_95 = float(stats.norm.ppf(0.975))


def binomial(accuracy: float, num_items: int) -> dict[str, float]:
    """Standard error and Wilson interval of an accuracy: std, ci_low, ci_high."""
    interval = stats.binomtest(round(accuracy * num_items), num_items).proportion_ci(0.95, method="wilson")
    error = math.sqrt(accuracy * (1 - accuracy) / num_items)
    return {"std": error, "ci_low": float(interval.low), "ci_high": float(interval.high)}
