"""Figures of weight noise, weight change, its rank and interpolation, over four simulated pre-training runs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.figures.study_figures import build_grids, caption_of
from analysis.figures.weight_grids import interpolation, update_rank, weight_distance
from analysis.tables.columns import DISTANCE_COLUMNS, Comparison
from analysis.tables.frames import as_table, select

NOISE, DISTANCE = "fig9_noise_on_weights", "fig10_weight_distance"


def test_figures_of_several_runs_show_their_mean_and_each_of_them(of_runs):
    grids = build_grids(of_runs)
    (panel,) = [panel for row in grids[NOISE] for panel in row if panel.title.endswith("base models")]
    curve = next(curve for curve in panel.curves if curve.label == "noise size 0.2")
    at_300 = curve.rows.set_index("checkpoint").loc["300"]
    each = [0.2 * 5 * (1 + run / 10) for run in range(4)]
    assert at_300["difference"] == pytest.approx(np.mean(each))
    half = stats.t.ppf(0.975, 3) * np.std(each, ddof=1) / 2
    assert [at_300["ci_low"], at_300["ci_high"]] == pytest.approx([np.mean(each) - half, np.mean(each) + half])
    assert sorted(rows.set_index("checkpoint").loc["300", "difference"] for rows in curve.each) == pytest.approx(each)
    assert "over 4 pre-training runs, with fixed items and draws" in caption_of(NOISE, grids[NOISE])
    # The gain is drawn against the mean weight change of the runs, a point for each checkpoint.
    (against,) = [
        panel
        for row in grids[DISTANCE]
        for panel in row
        if panel.title.startswith("socialiqa") and "bits" in panel.y_label
    ]
    whole = next(curve for curve in against.curves if curve.label == "all weights")
    assert whole.rows["relative"].tolist() == pytest.approx([0.01 * 1.15 * (1 + i) for i in range(5)])
    gains = select(of_runs.differences, comparison=Comparison.CHANGE, series="socialiqa", setting="socialiqa")
    gains = select(gains, metric="bits_per_byte").set_index("checkpoint")["difference"]
    assert whole.rows.set_index("checkpoint")["difference"].to_dict() == pytest.approx(gains.to_dict())


def panels_of(grid, title):
    return [panel for row in grid for panel in row if panel.title == title]


def test_ranks_are_averaged_over_the_changed_matrices_of_a_layer_and_over_the_layers_of_a_kind(of_runs):
    grid = update_rank(of_runs.pooled)
    (by_layer,) = panels_of(grid, "fine-tuned on socialiqa\nby layer")
    (layer,) = by_layer.curves  # the embedding was not changed
    assert layer.label == "layers.0"
    each = [(1 + run / 10) * 5 * 6 for run in range(4)]
    at_300 = layer.rows.set_index("checkpoint").loc["300"]
    assert at_300["effective_rank"] == pytest.approx(np.mean(each))
    half = stats.t.ppf(0.975, 3) * np.std(each, ddof=1) / 2
    assert at_300["ci_high"] - at_300["effective_rank"] == pytest.approx(half)
    (by_kind,) = panels_of(grid, "fine-tuned on socialiqa\nby kind")
    found = {curve.label: curve.rows.set_index("checkpoint").loc["300", "effective_rank"] for curve in by_kind.curves}
    assert found == pytest.approx({"mlp.up_proj": 1.15 * 20, "mlp.down_proj": 1.15 * 40})
    assert "over 4 pre-training runs" in caption_of("fig11_update_rank", grid)


def test_seeds_of_one_run_are_averaged_before_the_interval_over_runs(of_runs):
    rows = of_runs.distances.to_dict("records")
    seeds = [row | {"relative": row["relative"] * factor} for row in rows for factor in (0.5, 1.5)]
    found, expected = (
        [curve for row in weight_distance(tables.pooled) for panel in row for curve in panel.curves]
        for tables in (replace(of_runs, distances=as_table(seeds, DISTANCE_COLUMNS)), of_runs)
    )
    for curve, other in zip(found, expected, strict=True):
        columns = ["relative", "ci_low", "ci_high"]
        np.testing.assert_allclose(curve.rows[columns].astype(float), other.rows[columns].astype(float))


def test_interpolation_shows_the_loss_along_the_path_and_the_barrier_over_checkpoints(of_runs):
    grid = interpolation(of_runs.pooled)
    (along,) = panels_of(grid, "heldout_text\nfine-tuned on socialiqa")
    assert along.path == ["0", "0.5", "1"]
    last = next(curve for curve in along.curves if curve.label == "checkpoint 300")
    assert last.rows["checkpoint"].tolist() == ["0", "0.5", "1"]
    # The runs lie 0.5 - 0.5 = 0 above the base half way, and 1, 1.1, 1.2 and 1.3 below it at the end.
    assert last.rows["difference"].tolist() == pytest.approx([0, 0, -1.15])
    half = stats.t.ppf(0.975, 3) * np.std([1, 1.1, 1.2, 1.3], ddof=1) / 2
    assert last.rows["ci_low"].iloc[-1] == pytest.approx(-1.15 - half)
    assert sorted(rows["difference"].iloc[-1] for rows in last.each) == pytest.approx([-1.3, -1.2, -1.1, -1])
    (barriers,) = panels_of(grid, "heldout_text\nbarrier")
    of_series = next(curve for curve in barriers.curves if curve.label == "fine-tuned: socialiqa")
    assert of_series.rows["barrier"].tolist() == pytest.approx([1.15 * 0.1 * (1 + i) for i in range(5)])
    assert "over 4 pre-training runs, with fixed items" in caption_of("fig12_interpolation", grid)
