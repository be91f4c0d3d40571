"""The paper's protocol from data to tables: LLMBar as chats that hold the gold, and the value that is reported."""

import pytest
import toy_datasets
from toy_evaluation import load_toy, log_prob, read_records

from analysis.inference.degenerate_results import degenerate_results
from analysis.inference.result_tables import build_tables
from analysis.tables.gathering import gather_measurements
from analysis.tables.released import GOLD_IN_PROMPT
from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from open_instruct import format_generalization
from open_instruct.common import paths

END = "|||IP_ADDRESS|||"


@pytest.fixture
def predictions(home):
    """Protocol -> predictions of LLMBar, each evaluated as a study of that protocol does."""
    toy_datasets.fill_llmbar(paths.data_dir() / "llmbar", {"Natural": 12, "Adversarial_Neighbor": 12})
    found = {}
    for protocol, suffix in (("corrected", "_anyrows"), ("paper", "_paper_anyrows")):
        args = format_generalization.Args(None, ("llmbar_Natural",), protocol=protocol, any_row_count=True)
        format_generalization.main(args)
        items = paths.evaluation_file("llmbar_Natural", suffix=suffix)
        (found[protocol],) = predict.predict_files(predict.Args(home / "model", (items,)))
    return found


def test_llmbar_is_a_chat_that_ends_with_its_gold(home, predictions):
    model, tokenizer = load_toy(home)
    for record in read_records(predictions["paper"])[:3]:
        prompt, gold = record["prompt"], record["completion"]
        context = f"{END}<|user|>\n{prompt}\n<|assistant|>\n{gold}{END}\n<|assistant|>\n"
        ids = tokenizer(context)["input_ids"]
        expected = {
            label: max(log_prob(model, ids, [t]) for text in (label, f" {label}") for t in tokenizer(text)["input_ids"])
            for label in ("1", "2")
        }
        assert record["scores"] == pytest.approx(expected, abs=1e-3)
    # Being a chat, it has one name with the option and without.
    items = paths.evaluation_file("llmbar_Natural", suffix="_paper_anyrows")
    args = predict.Args(home / "model", (items,), use_chat_format=True)
    assert predict.predict_files(args) == [predictions["paper"]]


def test_it_is_marked_in_the_tables_under_this_protocol_only(predictions):
    eval_pred.main(eval_pred.Args(tuple(predictions.values())))
    tables = build_tables(gather_measurements(None))
    scores = {path: load_metrics(paths.metrics_file(path)).metrics for path in predictions.values()}
    rows = tables.performance.to_dict("records")
    assert len(rows) == 2 * 3
    for row in rows:
        score = scores[predictions[row["protocol"]]][row["metric"]]
        is_paper = row["protocol"] == "paper"
        assert (row["degenerate"] == GOLD_IN_PROMPT.why) == is_paper
        assert row["Performance"] == pytest.approx((score.ci_low + score.ci_high) / 2 if is_paper else score.mean)
    (found,) = [one for one in degenerate_results(tables) if one.kind == GOLD_IN_PROMPT.kind]
    assert {*found.sources} == {paths.relative(paths.metrics_file(predictions["paper"]))}
