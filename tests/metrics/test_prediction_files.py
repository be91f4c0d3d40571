"""Predictions with wrong values are refused by file and line; metrics files have clusters and a declared metric."""

import json

import pytest
from toy_predictions import write_predictions

from eval import eval_pred
from eval.metrics.prediction_files import identify_predictions, read_predictions
from open_instruct.common import paths
from open_instruct.common.errors import UserError

PAIR = {"id": "0", "prompt": "The cat", "completion": " sat"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a"]}, r"id \['a'\]"),
        ({"scores": None}, "found scores None"),
        ({"scores": [-1, -2]}, r"found scores \[-1, -2\]"),
        ({"scores": {"yes": "a", "no": -1}}, "found scores"),
        ({"finished": "yes"}, "found finished 'yes'; expected true or false"),
        ({"gold_logprob": "-3"}, "found gold_logprob '-3'"),
        ({"gold_logprob": True}, "found gold_logprob True"),
        ({"output": 3}, r"output: expected text, found '3' \(int\)"),
        ({"completion": " \ud83d"}, "completion: text that is not valid Unicode"),
    ],
    ids=str,
)
def test_malformed_predictions_are_refused_by_file_and_line(tmp_path, changes, message):
    record = {"dataset": "rte", "output": "no", "scores": {"yes": -2, "no": -1}, **PAIR, "completion": " no"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record | changes) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:1: {message}"):
        read_predictions(tmp_path / "a.jsonl", "labels")


def test_a_field_that_only_some_records_have_is_refused(tmp_path):
    """Without it in the first record the file would be read as one of another kind."""
    first = {"dataset": "rte", "output": "neutral", **PAIR, "completion": " neutral"}
    other = first | {"id": "1", "scores": {"entailment": -2, "neutral": -1}}
    (tmp_path / "a.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(other) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2: found scores, which the first record lacks"):
        read_predictions(tmp_path / "a.jsonl", "labels")


def test_a_dataset_that_is_no_name_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR | {"dataset": None}) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: dataset: expected text, found"):
        identify_predictions(tmp_path / "a.jsonl")


def test_clusters_and_a_declared_metric_are_in_the_metrics_file(predictions):
    records = [PAIR | {"id": str(i), "output": ("sat", "ran")[i], "cluster": f"user {i}"} for i in range(2)]
    path = write_predictions(predictions / "a.jsonl", records, kind="generation", eval_set="own", metric="exact_match")
    eval_pred.main(eval_pred.Args((path,)))
    metrics = eval_pred.load_metrics(paths.metrics_file(path))
    assert (metrics.primary, metrics.metrics["exact_match"].mean) == ("exact_match", 0.5)
    assert metrics.items["exact_match"] == [1, 0]
    assert metrics.items["cluster"] == ["user 0", "user 1"]
