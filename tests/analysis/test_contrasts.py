"""Contrasts between models over replicates and items, on values whose result can be computed by hand."""

import re

import numpy as np
import pytest

from analysis.inference.contrasts import Contrast, slope_weights
from analysis.inference.crossed import crossed_effects
from analysis.inference.estimates import estimate_with_items, estimate_without_items
from analysis.inference.item_values import ItemValues
from analysis.tables.measurements import Cell
from open_instruct.common.paths import REPOSITORY

TUNED, BASE = ("tuned", "0", "default"), ("base", "0", "default")
CHANGE = {TUNED: 1.0, BASE: -1.0}


def cell(values, ids=None, weights=None, clusters=None):
    ids = tuple(ids or map(str, range(len(values))))
    return Cell(ids, np.array(values, dtype=float), weights, clusters)


def items_of(cells, constant=()):
    return ItemValues({key: {name: {"": one} for name, one in of.items()} for key, of in cells.items()}, constant)


def change(cells, *, replicates=("",), metric="rouge_l", pairs=(), constant=()):
    contrast = Contrast("", "", "", "", CHANGE, pairs, replicates)
    (row,) = estimate_with_items([contrast], items_of(cells, constant), metric)
    return row


def test_bits_per_byte_are_weighted_by_bytes():
    gold_bytes = np.array([1.0, 3.0])
    cells = {TUNED: {"": cell([2, 3], weights=gold_bytes)}, BASE: {"": cell([1, 0], weights=gold_bytes)}}
    # (2 - 1 + 3 - 0) bits / (1 + 3) bytes
    assert change(cells, metric="bits_per_byte")["difference"] == pytest.approx(1.0)


def test_every_replicate_is_compared_with_its_own_base():
    cells = {TUNED: {"a": cell([1, 0, 1]), "b": cell([1, 1, 1])}, BASE: {"a": cell([0, 0, 1]), "b": cell([1, 0, 1])}}
    row = change(cells, replicates=("a", "b"))
    alone = crossed_effects(np.array([[[1, 0, 0], [0, 1, 0]]], dtype=float))
    assert (row["difference"], row["p_value"]) == pytest.approx((1 / 3, alone.p_value[0]))
    assert row["replicates"] == 2


def test_seeds_share_the_base_of_their_run():
    cells = {TUNED: {"1": cell([1, 0]), "2": cell([1, 1])}, BASE: {"": cell([0, 0])}}
    assert change(cells, replicates=("1", "2"))["difference"] == pytest.approx(0.75)


def test_seeds_of_one_run_are_averaged():
    items = ItemValues({TUNED: {"run": {"1": cell([1, 0]), "2": cell([0, 0])}}, BASE: {"run": {"": cell([0, 0])}}})
    (row,) = estimate_with_items([Contrast("", "", "", "", CHANGE, replicates=("run",))], items, "rouge_l")
    assert row["difference"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (
            {TUNED: {"a": cell([1, 1])}, BASE: {"a": cell([0, 0])}},
            "missing: tuned at 0, replicate b; base at 0, replicate b",
        ),
        (
            {TUNED: {"a": cell([1, 1]), "b": cell([1])}, BASE: {"a": cell([0, 0]), "b": cell([0])}},
            "other items: 2 in tuned at 0, replicate a, 1 in tuned at 0, replicate b",
        ),
        (
            {TUNED: {"a": cell([1, np.nan]), "b": cell([1, 1])}, BASE: {"a": cell([0, 0]), "b": cell([0, 0])}},
            "values that are no numbers: tuned at 0, replicate a",
        ),
        (
            {
                TUNED: {"a": cell([1, 1]), "b": cell([1, 1], weights=np.array([2.0, 1.0]))},
                BASE: {"a": cell([0, 0]), "b": cell([0, 0])},
            },
            "other completions in tuned at 0, replicate a and tuned at 0, replicate b",
        ),
    ],
)
def test_what_cannot_be_compared_is_named_and_never_averaged_over(cells, problem):
    assert change(cells, replicates=("a", "b")) == {"missing": problem}


def test_a_run_that_lacks_a_seed_is_named():
    seeds = {"a": {"1": cell([1, 1]), "2": cell([1, 1])}, "b": {"1": cell([1, 1])}}
    items = ItemValues({TUNED: seeds, BASE: {"a": {"": cell([0, 0])}, "b": {"": cell([0, 0])}}})
    (row,) = estimate_with_items([Contrast("", "", "", "", CHANGE, replicates=("a", "b"))], items, "rouge_l")
    assert row == {"missing": "missing: tuned at 0, replicate b (seed 2)"}


def test_a_copied_run_is_no_replicate():
    gold_bytes = np.array([2.0, 3.0])
    bits = {"a": cell([4, 5], weights=gold_bytes), "b": cell([4, 5], weights=gold_bytes)}
    cells = {TUNED: bits, BASE: {"a": cell([6, 7], weights=gold_bytes), "b": cell([7, 6], weights=gold_bytes)}}
    row = change(cells, replicates=("a", "b"), metric="bits_per_byte")
    assert row == {"missing": "missing: tuned at 0, replicate b (the values of a in every item: a copied model?)"}


def test_models_that_always_give_one_answer_take_part_in_no_test():
    both = {TUNED: {"a": cell([1, 0]), "b": cell([1, 1])}, BASE: {"a": cell([0, 0]), "b": cell([1, 0])}}
    row = change(both, replicates=("a", "b"), constant=[(BASE, "b")])
    assert row["missing"] == "one answer for nearly all items: base at 0, replicate b"
    # It can be drawn all the same.
    assert (row["difference"], row["p_value"]) == (0.5, None)


def test_one_item_has_an_effect_and_no_test():
    row = change(
        {TUNED: {"a": cell([1]), "b": cell([1])}, BASE: {"a": cell([0]), "b": cell([0])}}, replicates=("a", "b")
    )
    assert row["difference"] == 1.0
    assert not row["p_value"] <= 0.05


def test_float_rounding_of_equal_scores_is_no_difference():
    # Means over five checkpoints of equal scores differ by rounding only.
    values = np.tile([0.0, 0.3, 0.3, 0.1, 1.0], 10)
    cells = {(name, str(c), "default"): {"": {"": cell(values)}} for name in "ab" for c in range(5)}
    terms = {("a", str(c), "default"): 0.2 for c in range(5)} | {("b", str(c), "default"): -1 / 5 for c in range(5)}
    (row,) = estimate_with_items([Contrast("mean", "a", "all", "b", terms)], ItemValues(cells), "rouge_l")
    assert (row["difference"], row["ci_low"], row["ci_high"]) == (0.0, 0.0, 0.0)


def test_intervals_of_scores_stay_on_their_scale():
    rng = np.random.default_rng(0)
    cells = {
        TUNED: {name: cell(rng.random(3) < 0.9) for name in "ab"},
        BASE: {name: cell(rng.random(3) < 0.1) for name in "ab"},
    }
    row = change(cells, replicates=("a", "b"), metric="accuracy")
    assert (row["ci_high"], row["next_high"]) == (1.0, 1.0)
    assert row["ci_low"] >= -1.0


def test_log_odds_of_shares():
    cells = {TUNED: {"": cell([1, 1, 1, 0])}, BASE: {"": cell([1, 0, 0, 0])}}
    row = change(cells, metric="accuracy", pairs=[(TUNED, BASE)])
    # log(3.5 / 1.5) - log(1.5 / 3.5)
    assert row["log_odds"] == pytest.approx(2 * np.log(3.5 / 1.5))


def test_published_errors_of_two_models_are_independent():
    levels = {TUNED: {"": (0.30, 0.03, 100)}, BASE: {"": (0.25, 0.04, 19)}}
    (row,) = estimate_without_items([Contrast("", "", "", "", CHANGE)], levels, "accuracy")
    assert (row["difference"], row["std"]) == pytest.approx((0.05, 0.05))
    assert row["n"] == 19  # so that a claim of few items is not judged
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.05 - 1.96 * 0.05, 0.05 + 1.96 * 0.05), abs=1e-4)


def test_without_a_published_error_there_is_no_interval():
    levels = {TUNED: {"": (0.30, np.nan, np.nan)}, BASE: {"": (0.25, 0.04, 100)}}
    (row,) = estimate_without_items([Contrast("", "", "", "", CHANGE)], levels, "accuracy")
    assert row["difference"] == pytest.approx(0.05)
    assert (row["ci_low"], row["n"], row["note"]) == (None, None, "no standard error was published")
    assert np.isnan(row["p_value"])


def test_slope_weights_are_those_of_the_least_squares_line():
    x = {"20": 1.0, "60": 2.5, "200": 4.0, "600": 7.0}
    y = np.array([0.3, 0.1, 0.5, 0.9])
    weights = slope_weights(x)
    assert np.array(list(weights.values())) @ y == pytest.approx(np.polyfit(list(x.values()), y, 1)[0])
    assert slope_weights({"20": 1.0, "60": 2.0}) == {}


def test_the_worked_example_of_the_documentation():
    text = (REPOSITORY / "docs" / "analysis.md").read_text()
    table = [line.split("|")[2:-2] for line in text.splitlines() if re.match(r"\| run \d \| 0", line)]
    gains = np.array(table, dtype=float)
    assert gains.shape == (3, 4)
    found = crossed_effects(gains[None])
    numbers = {
        "0.0642": found.standard_error,
        "0.221": found.ci_high - found.mean,
        "0.079": found.ci_low,
        "0.521": found.ci_high,
        "0.248": found.next_high - found.mean,
    }
    for written, value in numbers.items():
        assert f"{value.item():.{len(written) - 2}f}" == written
        assert written in text


def test_many_constant_predictors_are_counted_and_not_listed():
    keys = [("base", str(step), "default") for step in range(6)]
    items = items_of({key: {"b": cell([1, 1])} for key in keys}, [(key, "b") for key in keys[:5]])
    assert items.fault(keys, ["b"]) == ("one answer for nearly all items in 5 of 6 models, as base at 0, replicate b")


def test_the_same_items_in_another_order_are_named_so():
    cells = {TUNED: {"a": cell([1, 0], ids=["p", "q"])}, BASE: {"a": cell([1, 0], ids=["q", "p"])}}
    assert change(cells, replicates=("a",))["missing"].startswith(
        "items in another order: 2 in tuned at 0, replicate a"
    )
