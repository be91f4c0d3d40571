"""What varies: items, seeds, runs, checkpoints and gains, against the tables it is made of."""

import numpy as np
import pytest
from simulated_study import STUDY, WITH_RUNS, write_study

from analysis import produce_tables
from analysis.inference.power import smallest_detectable_effect
from analysis.tables.columns import Comparison
from analysis.tables.frames import read_tables, select
from open_instruct.common import paths

SMALL = ("  rte: {}\n  mrpc: {}\n", "  qa_chat: {epochs: 5, lr: 1e-3}\n", ", train_sets: [qa_chat]")
PLACE = {"setting": "socialiqa", "format": "default", "metric": "bits_per_byte"}


def tables_of(tmp_path_factory, text):
    base_dir = tmp_path_factory.mktemp("study")
    for part in SMALL:
        text = text.replace(part, "")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        produce_tables.main(produce_tables.Args(write_study(base_dir, num_items=20, text=text)))
        return read_tables(paths.results_dir("simulated"))


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory):
    return tables_of(tmp_path_factory, WITH_RUNS)


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory):
    seeds = STUDY.replace("socialiqa: {epochs: 3, lr: 1e-3}", "socialiqa: {epochs: 3, lr: 1e-3, seeds: [1, 2, 3]}")
    return tables_of(tmp_path_factory, seeds)


def row_of(tables, series):
    (row,) = select(tables.variation, series=series, **PLACE).to_dict("records")
    return row


def trained(frame, **equal):
    found = select(frame, **PLACE, **equal)
    return found[found["checkpoint"] != "0"]


def test_every_curve_has_a_row(of_runs):
    curves = ["series", "setting", "kind", "format", "metric"]
    assert len(of_runs.variation) == len(of_runs.levels[curves].drop_duplicates())
    assert not of_runs.variation[curves].duplicated().any()


def test_run_sd_is_that_between_runs_and_there_is_no_seed_sd_without_seeds(of_runs):
    row, levels = row_of(of_runs, "socialiqa"), trained(of_runs.levels, series="socialiqa")
    assert row["run_sd"] == pytest.approx(np.sqrt(np.mean(levels["replicate_sd"] ** 2)))
    assert row["item_error"] == pytest.approx(levels["item_error"].median())
    assert np.isnan(row["seed_sd"])


def test_seed_sd_is_that_between_seeds_of_one_run(of_seeds):
    row, models = row_of(of_seeds, "socialiqa"), trained(of_seeds.performance, series="socialiqa")
    variances = models.groupby("checkpoint")["Performance"].var(ddof=1)
    assert len(variances) == 4
    assert row["seed_sd"] == pytest.approx(np.sqrt(variances.mean()))
    assert np.isnan(row["run_sd"])
    assert np.isnan(row_of(of_seeds, "base")["seed_sd"])


def test_checkpoint_sd_is_of_each_run_alone_without_step_0(of_runs):
    models = trained(of_runs.performance, series="base").sort_values("step")
    squares, ranges = [], []
    for _, run in models.groupby(models["run"].fillna("first")):
        scores = run["Performance"].to_numpy(float)
        squares.append(np.mean(np.diff(scores[-3:], n=2) ** 2) / 6)
        ranges.append(np.ptp(scores))
    row = row_of(of_runs, "base")
    assert row["checkpoint_sd"] == pytest.approx(np.sqrt(np.mean(squares)))
    assert row["signal"] == pytest.approx(np.median(ranges))


def test_the_smallest_gain_follows_from_the_noise_of_the_gain(of_runs):
    row = row_of(of_runs, "socialiqa")
    gains = trained(of_runs.differences, series="socialiqa", comparison=Comparison.CHANGE)
    assert row["gain_next_half_width"] == pytest.approx(((gains["next_high"] - gains["next_low"]) / 2).median())
    # The variance of the mean gain, from its parts, is that of paired_differences.csv.
    share, errors, sds = row["gain_shared_items"], gains["item_error"], gains["replicate_sd"]
    assert 0 <= share <= 1
    assert row["smallest_gain"] == pytest.approx(
        smallest_detectable_effect(errors.median(), np.sqrt(np.mean(sds**2)), 3, 20, shared=share)
    )
    assert row["smallest_gain"] > 2 * gains["std"].median()


def test_one_run_has_no_smallest_gain(of_seeds):
    assert np.isnan(row_of(of_seeds, "hellaswag_endings")["smallest_gain"])
    assert row_of(of_seeds, "socialiqa")["smallest_gain"] > 0
