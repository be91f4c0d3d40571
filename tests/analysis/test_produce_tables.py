import numpy as np
import pandas as pd
import pytest
from simulated_study import STUDY, write_study

from analysis.inference import contrasts
from analysis.inference.contrasts import Contrast
from analysis.inference.paired import Cell, evaluate_paired
from analysis.produce_tables import Args, main
from analysis.tables.curve_names import name_series
from analysis.tables.frames import (
    DIFFERENCE_TABLE,
    order_checkpoints,
    read_tables,
    relation,
    select,
)
from eval.metrics.paired_comparison import paired_difference
from open_instruct.common import paths
from open_instruct.common.artifacts import sidecar_path
from open_instruct.common.errors import UserError

SMALL = (
    STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]")
    .replace("  hellaswag_endings: {epochs: 3, lr: 1e-3}\n  qa_chat: {epochs: 5, lr: 1e-3}\n", "")
    .replace("  hellaswag_endings: {}\n  sciq: {}\n  rte: {}\n  mrpc: {}\n", "")
    .replace("openbookqa, hellaswag, boolq], train_sets: [qa_chat]", "boolq]")
)


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    return write_study(tmp_path, num_items=12, text=SMALL)


def table_bytes():
    return {path.name: path.read_bytes() for path in sorted(paths.results_dir().glob("*.csv"))}


def test_a_row_for_each_model_evaluation_and_metric_with_the_original_columns_first(study_file):
    main(Args(study_file))
    tables = read_tables(paths.results_dir())
    assert list(tables.performance.columns[:4]) == ["model_id", "eval dataset", "Performance", "std"]
    # 6 models; socialiqa in 3 formats with ROUGE-L and bits per byte, held-out text with bits per byte alone.
    assert len(tables.performance) == 6 * (3 * 2 + 1)
    assert set(tables.performance["eval dataset"]) == {
        "socialiqa",
        "socialiqa_instruct",
        "socialiqa_inputoutput",
        "heldout_text",
    }
    # 3 base models, 3 tasks, 3 forms of accuracy in the simulated suite files.
    assert len(tables.suites) == 3 * 3 * 3
    assert tables.missing.empty


def test_differences_are_those_of_the_truth(study_file):
    main(Args(study_file))
    differences = read_tables(paths.results_dir()).differences
    where = {"series": "socialiqa", "eval_set": "socialiqa", "format": "default", "metric": "bits_per_byte"}
    gains = select(differences, comparison=contrasts.FINE_TUNED_MINUS_BASE, **where)
    assert list(gains["checkpoint"]) == ["0", "20", "60"]
    # The simulated saving is 0.5 + 0.2 i; the models' own noise is 0.02 an item.
    assert gains["difference"].to_numpy() == pytest.approx([-0.5, -0.7, -0.9], abs=0.05)
    mean = select(differences, comparison=contrasts.FINE_TUNED_MINUS_BASE_MEAN, **where)
    assert mean["difference"].item() == pytest.approx(gains["difference"].mean())


def test_the_same_measurements_give_the_same_bytes(study_file):
    main(Args(study_file))
    first = table_bytes()
    main(Args(study_file))
    assert table_bytes() == first


def test_what_is_missing_is_listed_and_never_averaged_over(study_file):
    gone = paths.prediction_file("heldout_text", "default", "checkpoint-20").with_suffix(".metrics.json")
    gone.unlink()
    unfinished = paths.suite_file("boolq", "checkpoint-60")
    sidecar_path(unfinished).unlink()
    main(Args(study_file))
    tables = read_tables(paths.results_dir())
    assert list(zip(tables.missing["model_id"], tables.missing["eval dataset"], strict=True)) == [
        ("checkpoint-20", "heldout_text"),
        ("checkpoint-60", "boolq"),
    ]
    assert list(tables.missing["reason"]) == ["no such file", "unfinished: it has no sidecar"]
    mean = select(tables.differences, comparison=contrasts.FINE_TUNED_MINUS_BASE_MEAN, eval_set="heldout_text")
    assert np.isnan(mean["difference"].item())
    assert mean["missing"].item() == "missing: base 20 default"


def test_models_outside_the_study_are_left_out(study_file):
    study_file.write_text(SMALL.replace("[0, 20, 60]", "[0, 60]"))
    main(Args(study_file))
    assert set(read_tables(paths.results_dir()).performance["checkpoint"]) == {"0", "60"}
    main(Args())
    assert set(read_tables(paths.results_dir()).performance["checkpoint"]) == {"0", "20", "60"}


def test_nothing_measured_is_refused_with_the_stage_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"no finished measurement .*eval_pred\.py"):
        main(Args())


def test_absent_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match=DIFFERENCE_TABLE):
        read_tables(tmp_path)


def test_a_contrast_weights_bits_by_bytes():
    ids, gold_bytes = ("a", "b"), np.array([1.0, 3.0])
    cells = {
        ("tuned", "0", "default"): Cell(ids, np.array([2.0, 3.0]), gold_bytes),
        ("base", "0", "default"): Cell(ids, np.array([1.0, 0.0]), gold_bytes),
    }
    terms = {("tuned", "0", "default"): 1.0, ("base", "0", "default"): -1.0}
    # (2 - 1 + 3 - 0) bits / (1 + 3) bytes
    (result,) = evaluate_paired([Contrast("", "", "", "", terms)], cells)
    assert result["difference"] == pytest.approx(1.0)


def test_other_items_are_not_compared():
    cells = {
        ("tuned", "0", "default"): Cell(("a", "b"), np.zeros(2), None),
        ("base", "0", "default"): Cell(("a",), np.zeros(1), None),
    }
    terms = {("tuned", "0", "default"): 1.0, ("base", "0", "default"): -1.0}
    (result,) = evaluate_paired([Contrast("", "", "", "", terms)], cells)
    assert "other items: 2" in result["missing"]


def test_the_spread_is_the_largest_mean_minus_the_smallest():
    items = np.array([0.0, 1.0, 2.0, 3.0])
    keys = [("base", "0", name) for name in ("default", "instruct", "inputoutput")]
    cells = {key: Cell(("a", "b", "c", "d"), items + shift, None) for key, shift in zip(keys, (0, 5, 2), strict=True)}
    (result,) = evaluate_paired([Contrast("", "", "", "", spreads=[(1.0, keys)])], cells)
    # Every resample draws the same items for all formats, so the spread has no uncertainty here.
    assert (result["difference"], result["ci_low"], result["ci_high"]) == pytest.approx((5, 5, 5))
    assert result["p_value"] is None


@pytest.mark.parametrize("num_items", [12, 30, 1200])
@pytest.mark.parametrize("kind", ["accuracy", "score", "bits"])
def test_many_contrasts_at_once_are_as_sure_as_one_by_one(num_items, kind):
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
        # Resamples and flips may be drawn otherwise: within what 3,000 and 10,000 draws leave open.
        found, expected = (result["ci_low"], result["ci_high"]), (alone.ci_low, alone.ci_high)
        assert found == pytest.approx(expected, abs=0.05 * width)
        assert result["p_value"] == pytest.approx(alone.p_value, abs=0.03)


def test_checkpoints_ascend_and_main_is_last():
    assert order_checkpoints(["main", "1000", "18000", "20"]) == ["20", "1000", "18000", "main"]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("in-domain of xsum", "in-domain"),
        ("in-domain of mnli", "other"),
        ("out-of-domain of xsum", "out-of-domain"),
        ("pre-training", "pre-training"),
        ("other", "other"),
    ],
)
def test_relation_to_xsum(role, expected):
    assert relation(role, "xsum") == expected


def test_series_are_named_by_what_differs():
    row = {"model_id": "m", "family": "tiny", "train_set": "xsum", "step": 20, "epochs": 3, "lr": 1e-3, "seed": 42}
    row |= {"adapter": "full", "kind": "text", "shots": 0, "protocol": "corrected", "eval_set": "text"}
    named = name_series([row, {**row, "lr": 1e-4}, {**row, "train_set": None, "step": None}])
    assert [r["series"] for r in named] == ["xsum lr=0.001", "xsum lr=0.0001", "base"]
    assert [r["checkpoint"] for r in named] == ["20", "20", "main"]
    assert {r["setting"] for r in named} == {"text"}


def test_a_folder_without_identity_stands_alone(study_file):
    frame = pd.DataFrame(
        name_series(
            [
                dict.fromkeys(("family", "train_set", "step", "epochs", "lr", "seed", "adapter", "shots", "protocol"))
                | {"model_id": "OLMo-1B-hf", "kind": "text", "eval_set": "text"}
            ]
        )
    )
    assert frame["series"].item() == "OLMo-1B-hf"
