"""Paired contrasts between models, on items whose result can be computed by hand."""

import numpy as np
import pytest

from analysis.inference.contrasts import Contrast
from analysis.inference.paired import evaluate_paired
from analysis.tables.measurements import Cell
from eval.metrics.paired_comparison import paired_difference


def test_bits_per_byte_are_weighted_by_bytes():
    ids, gold_bytes = ("a", "b"), np.array([1.0, 3.0])
    cells = {
        ("tuned", "0", "default"): Cell(ids, np.array([2.0, 3.0]), gold_bytes),
        ("base", "0", "default"): Cell(ids, np.array([1.0, 0.0]), gold_bytes),
    }
    terms = {("tuned", "0", "default"): 1.0, ("base", "0", "default"): -1.0}
    # (2 - 1 + 3 - 0) bits / (1 + 3) bytes
    (result,) = evaluate_paired([Contrast("", "", "", "", terms)], cells)
    assert result["difference"] == pytest.approx(1.0)


def test_models_with_different_items_are_not_compared():
    cells = {
        ("tuned", "0", "default"): Cell(("a", "b"), np.zeros(2), None),
        ("base", "0", "default"): Cell(("a",), np.zeros(1), None),
    }
    terms = {("tuned", "0", "default"): 1.0, ("base", "0", "default"): -1.0}
    (result,) = evaluate_paired([Contrast("", "", "", "", terms)], cells)
    assert "other items: 2" in result["missing"]


def test_spread_is_the_largest_minus_the_smallest_mean():
    items = np.array([0.0, 1.0, 2.0, 3.0])
    keys = [("base", "0", name) for name in ("default", "instruct", "inputoutput")]
    cells = {key: Cell(("a", "b", "c", "d"), items + shift, None) for key, shift in zip(keys, (0, 5, 2), strict=True)}
    (result,) = evaluate_paired([Contrast("", "", "", "", spreads=[(1.0, keys)])], cells)
    # Every resample draws the same items for all formats, so this spread has no uncertainty.
    assert (result["difference"], result["ci_low"], result["ci_high"]) == pytest.approx((5, 5, 5))
    assert result["p_value"] is None


@pytest.mark.parametrize("num_items", [12, 30, 1200])
@pytest.mark.parametrize("kind", ["accuracy", "score", "bits"])
def test_vectorised_contrasts_agree_with_single_paired_differences(num_items, kind):
    rng = np.random.default_rng(num_items)
    ids = tuple(str(i) for i in range(num_items))
    weights = rng.integers(20, 90, num_items).astype(float) if kind == "bits" else None
    models = [rng.random(num_items) for _ in range(3)]
    if kind == "accuracy":
        models = [(values < 0.6).astype(float) for values in models]
    keys = [(name, "0", "default") for name in "abc"]
    cells = {key: Cell(ids, values, weights) for key, values in zip(keys, models, strict=True)}
    terms = [{keys[0]: 1.0, keys[1]: -1.0}, {keys[0]: 0.5, keys[1]: 0.5, keys[2]: -1.0}]
    results = evaluate_paired([Contrast("", "", "", "", of_one) for of_one in terms], cells)
    for result, of_one in zip(results, terms, strict=True):
        plus = sum(c * cells[key].values for key, c in of_one.items() if c > 0)
        minus = sum(-c * cells[key].values for key, c in of_one.items() if c < 0)
        alone = paired_difference(plus, minus, weights)
        width = alone.ci_high - alone.ci_low
        assert (result["difference"], result["std"]) == pytest.approx((alone.mean, alone.standard_error))
        # Resamples and flips may be drawn differently: tolerances for 3,000 and 10,000 draws.
        found, expected = (result["ci_low"], result["ci_high"]), (alone.ci_low, alone.ci_high)
        assert found == pytest.approx(expected, abs=0.05 * width)
        assert result["p_value"] == pytest.approx(alone.p_value, abs=0.03)
