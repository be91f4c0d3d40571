"""Checkpoint noise of curves: from second differences of the late half, so that a steady course is no noise."""

import numpy as np
import pandas as pd
import pytest

from analysis.tables.checkpoint_noise import checkpoint_noise, checkpoint_sd, late


def curve(scores, *, series="base", first=1000):
    about = {"series": series, "setting": "rte", "kind": "labels", "format": "default", "metric": "accuracy"}
    names = (
        [str(first * i) for i in range(1, len(scores))] + ["main"] if first else [str(i) for i in range(len(scores))]
    )
    return [about | {"checkpoint": name, "Performance": score} for name, score in zip(names, scores, strict=True)]


def test_sd_of_independent_noise_is_found_beside_a_steady_rise():
    noise = np.random.default_rng(0).normal(0, 0.02, size=4000)
    assert checkpoint_sd(np.linspace(0, 10, 4000) + noise) == pytest.approx(0.02, rel=0.05)


def test_only_the_late_half_counts_as_noise_and_the_whole_range_as_signal():
    # The last four: 0.5, 0.6, 0.5, 0.6, with the second differences -0.2 and 0.2.
    table = checkpoint_noise(pd.DataFrame(curve([0.0, 0.4, 0.1, 0.5, 0.6, 0.5, 0.6])))
    row = table.iloc[0]
    assert (row["checkpoints"], row["late_checkpoints"]) == (7, 4)
    assert row["checkpoint_sd"] == pytest.approx(0.2 / np.sqrt(6))
    assert row["signal"] == pytest.approx(0.6)
    assert row["signal_to_noise"] == pytest.approx(0.6 / (0.2 / np.sqrt(6)))


def test_the_rows_may_be_in_any_order():
    rows = curve([0.1, 0.2, 0.4, 0.3, 0.5])
    assert checkpoint_noise(pd.DataFrame(rows[::-1])).equals(checkpoint_noise(pd.DataFrame(rows)))


def test_step_0_is_left_out():
    with_start = curve([0.0, 0.5, 0.6, 0.5], first=0)
    row = checkpoint_noise(pd.DataFrame(with_start)).iloc[0]
    assert (row["checkpoints"], row["signal"]) == (3, pytest.approx(0.1))


def test_a_curve_of_two_checkpoints_has_no_row_and_one_without_noise_no_quotient():
    table = checkpoint_noise(pd.DataFrame([*curve([0.1, 0.2]), *curve([0.25, 0.5, 0.75], series="mnli")]))
    assert table["series"].tolist() == ["mnli"]
    assert table["checkpoint_sd"].item() == 0
    assert np.isnan(table["signal_to_noise"].item())


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (4, 3), (6, 3), (7, 4), (8, 4)])
def test_late_half(count, expected):
    assert late(np.arange(count)).tolist() == list(range(count - expected, count))
