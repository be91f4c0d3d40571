"""Evaluation files of other kinds, or with values that cannot be scored, are refused before a model is loaded."""

import json

import pytest

from eval.prediction.prediction_spec import identify_evaluation, sample_items
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl

PAIR = {"id": "0", "prompt": "The cat", "completion": " sat"}


def test_train_and_prediction_files_are_not_predicted(tmp_path):
    for name, identity in (("train", {"train_set": "rte"}), ("prediction", {"model_id": "a", "eval_set": "rte"})):
        path = tmp_path / f"{name}.jsonl"
        with Artifact(path, {}, identity=identity).making():
            write_jsonl(path, [PAIR])
        with pytest.raises(UserError, match=rf"{name}\.jsonl is a {name} file; expected one of .*evaluation"):
            identify_evaluation(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 5}, "prompt: expected text"),
        ({"completion": None}, "completion: expected text"),
        ({"completion": ["a"]}, "completion: expected text"),
        ({"completion": " "}, "an empty completion"),
        ({"id": "0"}, "id '0' for the second time; expected each item once"),
        ({"id": ["a"]}, r"id \['a'\]; expected text"),
    ],
    ids=str,
)
def test_malformed_evaluation_records_are_refused_by_file_and_line(tmp_path, changes, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"id": "1"} | changes) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {message}"):
        sample_items(tmp_path / "a.jsonl", None)


@pytest.mark.parametrize("dataset", [None, ["sciq"], 3], ids=str)
def test_a_dataset_that_is_no_name_is_refused(tmp_path, dataset):
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIR | {"dataset": dataset}) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: dataset: expected text, found"):
        identify_evaluation(tmp_path / "a.jsonl")
