"""Checkpoint noise: how much a curve over checkpoints scatters about its own course, as a description without a test.

The noise is the standard deviation of one checkpoint's score about the course of its neighbours, from second
differences y[i-1] - 2 y[i] + y[i+1] of the late half of the curve: they do not see a steady rise or fall, and of
independent noise with standard deviation s each has the standard deviation s √6. Item noise is part of it. Signal and
noise of benchmarks are compared in this way in arXiv 2508.13144, there with the deviation of the last checkpoints.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.tables.columns import CURVE_NOISE_COLUMNS
from analysis.tables.frames import groups, in_order, where

MIN_CHECKPOINTS = 3


def checkpoint_noise(performance: pd.DataFrame) -> pd.DataFrame:
    """A row for each curve over at least three checkpoints: its checkpoint noise, its range, and their quotient.

    `performance`: rows of performance or of suites, own or published. Step 0, the random initialisation, is left out.
    checkpoint_sd is NaN without three late checkpoints, signal_to_noise where checkpoint_sd is zero or NaN. The
    distance of two checkpoints is taken as one, whatever their steps.
    """
    rows = []
    trained = where(performance, performance["checkpoint"] != "0")
    for names, curve in groups(trained, "series", "setting", "kind", "format", "metric"):
        scores = in_order(curve)["Performance"].to_numpy(float)
        if len(scores) >= MIN_CHECKPOINTS:
            noise, signal = checkpoint_sd(late(scores)), float(np.ptp(scores))
            about = dict(zip(("series", "setting", "kind", "format", "metric"), names, strict=True))
            about |= {"checkpoints": len(scores), "late_checkpoints": len(late(scores))}
            ratio = signal / noise if noise > 0 else np.nan
            rows.append(about | {"checkpoint_sd": noise, "signal": signal, "signal_to_noise": ratio})
    return pd.DataFrame(rows, columns=list(CURVE_NOISE_COLUMNS))


def late(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The late half of (checkpoints,), the middle one included, and at least the last three."""
    return scores[-max(MIN_CHECKPOINTS, (len(scores) + 1) // 2) :]


def checkpoint_sd(scores: npt.NDArray[np.float64]) -> float:
    """Standard deviation of one score about the course of its neighbours, (checkpoints,) in order; NaN below three."""
    second = np.diff(scores, n=2)
    return float(np.sqrt(np.mean(np.square(second)) / 6)) if len(second) else np.nan
