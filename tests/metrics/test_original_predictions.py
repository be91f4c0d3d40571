"""Label predictions of the study's original code have a text and no scores: they are scored by their text."""

import pytest
from toy_predictions import write_predictions

from eval.eval_pred import Args, main
from eval.metrics.metrics_file import load_metrics
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import metrics_file

GOLDS_AND_OUTPUTS = [
    ("entailment", " entailment"),
    ("neutral", "neutral"),
    ("neutral", " contradiction"),
    ("entailment", "entailment. It follows"),
    ("entailment", "It is entailment"),
]


def records(dataset, pairs=GOLDS_AND_OUTPUTS):
    return [
        {"dataset": dataset, "id": f"{dataset}_{i}", "prompt": "p", "completion": gold, "output": output}
        for i, (gold, output) in enumerate(pairs)
    ]


def test_outputs_without_scores_are_labels_by_their_text(predictions):
    write_jsonl(predictions / "rte_olmo1b_original_hf.jsonl", records("rte"))
    main(Args())
    result = load_metrics(metrics_file(predictions / "rte_olmo1b_original_hf.jsonl"))
    assert result.items["accuracy"] == [1, 1, 0, 1, 0]
    assert result.metrics["accuracy"].mean == 0.6
    assert result.metrics["chance_corrected_accuracy"].mean == pytest.approx((0.6 - 0.5) / 0.5)
    # Entailment: 2 of 3 golds, 2 predicted; neutral: 1 of 2, 1 predicted; what is no label is never right.
    assert result.metrics["macro_f1"].mean == pytest.approx((2 * 2 / 5 + 2 * 1 / 3 + 0) / 3)


def test_under_the_papers_protocol_a_label_may_occur_anywhere(predictions):
    path = write_predictions(predictions / "a.jsonl", records("rte"), kind="labels", eval_set="rte", protocol="paper")
    main(Args((path,)))
    assert load_metrics(metrics_file(path)).items["accuracy"] == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("eval_set", ["mnli_matched", "mnli_mismatched"])
def test_sets_that_the_original_names_alike_are_told_apart_by_the_name_of_the_file(predictions, eval_set):
    path = predictions / f"{eval_set}_olmo1b_hf_main_mnli_3epoch_2e-6.jsonl"
    write_jsonl(path, records("mnli1"))
    main(Args())
    result = load_metrics(metrics_file(path))
    assert (result.identity["eval_set"], result.metrics["accuracy"].n) == (eval_set, 5)


def test_chats_have_their_gold_answer_in_the_last_message(predictions):
    def chat(i, gold, output):
        messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": gold}]
        return {"dataset": "llmbar_Natural", "id": f"llmbar_{i}", "messages": messages, "output": output}

    path = predictions / "llmbar_Natural_olmo1b_original_hf.jsonl"
    write_jsonl(path, [chat(0, "1", " 1"), chat(1, "2", "1")])
    main(Args())
    assert load_metrics(metrics_file(path)).items["accuracy"] == [1, 0]


def test_a_gold_answer_that_is_no_label_is_refused(predictions):
    write_jsonl(predictions / "rte_a.jsonl", records("rte", [("yes", "yes")]))
    with pytest.raises(UserError, match=r"rte_a\.jsonl:1: found gold 'yes'; expected one of the labels"):
        main(Args())
