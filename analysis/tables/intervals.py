"""Standard errors and 95% intervals of numbers whose items are not recorded."""

import math

from scipy import stats

Z_95 = float(stats.norm.ppf(0.975))


def binomial(accuracy: float, num_items: int) -> dict[str, float]:
    """Standard error and Wilson interval of an accuracy: std, ci_low, ci_high."""
    share, z2 = round(accuracy * num_items) / num_items, Z_95**2
    middle = share + z2 / (2 * num_items)
    half = Z_95 * math.sqrt(share * (1 - share) / num_items + z2 / (4 * num_items**2))
    scale = 1 + z2 / num_items
    low, high = ((middle - half) / scale if share > 0 else 0.0), ((middle + half) / scale if share < 1 else 1.0)
    return {"std": math.sqrt(accuracy * (1 - accuracy) / num_items), "ci_low": low, "ci_high": high}
