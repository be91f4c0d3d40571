"""Models, labels and arguments that prediction refuses, with the fix."""

import json
from pathlib import Path

import pytest
import torch
from toy_evaluation import (
    RTE,
    load_toy,
    run_predict,
    write_evaluation,
)
from toy_models import toy_native_olmo, toy_tokenizer

from eval import predict, predict_classification
from eval.predict import Args
from eval.prediction import label_scoring
from eval.prediction.resumable_jsonl import ResumableJsonl
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json


def test_labels_with_the_same_tokens_are_refused(tmp_path):
    tokenizer = toy_tokenizer(tmp_path)
    with pytest.raises(UserError, match="labels yes, yes have the same tokens"):
        label_scoring.encode_labels_jointly(tokenizer, [("Same?", " yes")], ["yes", "yes"])


def test_gold_completion_that_is_not_a_label_is_refused(home):
    write_evaluation(home / "rte.jsonl", [*RTE, ("rte", "One:", " perhaps")])
    with pytest.raises(UserError, match="' perhaps' is none of the labels entailment, neutral"):
        run_predict(home, "rte")


def test_nan_weights_are_refused_and_no_prediction_file_is_written(home):
    model, _ = load_toy(home)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(home / "model")
    for name in ("rte", "sciq"):
        with pytest.raises(UserError, match=r"not finite|NaN"):
            run_predict(home, name)
    assert not list((home / "output" / "predictions").glob("*.jsonl"))


def test_folder_that_is_not_a_transformers_model_is_refused_with_the_fix(home):
    toy_native_olmo(home / "native")
    (home / "adapter").mkdir()
    (home / "adapter" / "adapter_config.json").write_text("{}")
    for folder, message in {
        "native": "OLMo's own format.*convert_olmo_to_tf.py",
        "adapter": "merge_lora.py",
        "nowhere": "no such folder",
        "output": "no such folder|no config.json",
    }.items():
        with pytest.raises(UserError, match=message):
            predict.main(Args(home / folder, (home / "rte.jsonl",)))


def test_revision_of_a_folder_is_refused_for_it_would_have_no_effect(home):
    with pytest.raises(UserError, match=r"--model_revision is step1000, but .*model is a folder"):
        predict.main(Args(home / "model", (home / "rte.jsonl",), model_revision="step1000"))
    predict.main(Args(home / "model", (home / "rte.jsonl",), model_revision="main"))


def test_missing_weights_are_refused(home):
    config = json.loads((home / "model" / "config.json").read_text())
    write_json(home / "model" / "config.json", config | {"num_hidden_layers": 3})
    with pytest.raises(UserError, match="missing_keys"):
        run_predict(home, "rte")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("rte", "sciq"), {"output_file": Path("x.jsonl")}, "exactly one input file, found 2"),
        (("rte", "rte"), {}, "same output"),
        (("rte",), {"limit": (1, 2)}, "--limit takes one number or 1, one for each file; found 2"),
        (("sciq",), {"temperature": 0.5}, "without --do_sample"),
        (("nowhere",), {}, "no such file"),
    ],
)
def test_invalid_arguments_are_refused_before_the_model_is_loaded(home, monkeypatch, names, options, message):
    monkeypatch.setattr("eval.prediction.model_loading.load", None)
    with pytest.raises(UserError, match=message):
        run_predict(home, *names, **options)


def test_predict_classification_refuses_other_kinds(home):
    with pytest.raises(UserError, match="sciq is of kind generation, expected labels"):
        predict_classification.main(Args(home / "model", (home / "sciq.jsonl",)))
    predict_classification.main(Args(home / "model", (home / "rte.jsonl",)))
    assert (home / "output" / "predictions" / "rte_toy_ckpt7.jsonl").is_file()


def test_a_run_leaves_no_partial_file_before_its_first_record(tmp_path):
    partial = ResumableJsonl(tmp_path / "x.partial", "0" * 64, chunk_size=1)
    assert partial.resume() == 0
    assert not partial.path.exists()
    partial.append([{"id": 1}])
    assert partial.resume() == 1
    assert list(partial.lines()) == ['{"id": 1}\n']
