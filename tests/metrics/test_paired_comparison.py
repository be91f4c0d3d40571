"""Paired differences of two prediction files by eval_pred.py --against."""

import json
import math

import pytest
from toy_predictions import RELATIONS, TEXTS, write_predictions

from eval.eval_pred import Args, main
from eval.metrics.bootstrap import bootstrap_mean
from eval.metrics.metrics_file import load_metrics
from open_instruct.common.errors import UserError
from open_instruct.common.paths import metrics_file


def corrected(record):
    return record | {"output": record["completion"], "gold_logprob": -0.5}


def test_differences_have_an_interval_and_a_p_value(predictions, capsys):
    # One of the four items is wrong in base, which has the items in reverse order.
    base = write_predictions(predictions / "base.jsonl", RELATIONS[::-1], kind="labels", eval_set="rte")
    tuned = write_predictions(
        predictions / "tuned.jsonl", [corrected(r) for r in RELATIONS], kind="labels", eval_set="rte"
    )
    out = predictions / "difference.json"
    main(Args(input_files=(tuned,), against=base, differences_file=out))
    found = json.loads(out.read_text())[str(tuned)]
    assert found["accuracy"]["mean"] == 0.25
    assert found["accuracy"]["p_value"] == 1  # by McNemar's test of a single discordant item
    expected = bootstrap_mean([0, 1, 0, 0])
    assert (found["accuracy"]["ci_low"], found["accuracy"]["ci_high"]) == (expected.ci_low, expected.ci_high)
    # Half a nat less on each of four items, over 3 * 11 + 8 bytes.
    num_bytes = sum(len(record["completion"]) for record in RELATIONS)
    assert found["bits_per_byte"]["mean"] == pytest.approx(-4 * 0.5 / math.log(2) / num_bytes)
    assert "tuned minus base\n  accuracy: +0.2500 ± 0.2500 [" in capsys.readouterr().out


def test_predictions_of_different_items_are_refused(predictions):
    few = write_predictions(predictions / "few.jsonl", RELATIONS[:3], kind="labels", eval_set="rte")
    all_ = write_predictions(predictions / "all.jsonl", RELATIONS, kind="labels", eval_set="rte")
    text = write_predictions(predictions / "text.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    with pytest.raises(UserError, match=r"found 1 items of .*all\.jsonl that are not in .*few\.jsonl, such as 'r-3'"):
        main(Args(input_files=(all_,), against=few))
    with pytest.raises(UserError, match="and 1 the other way round"):
        main(Args(input_files=(few,), against=all_))
    with pytest.raises(UserError, match=r"is of rte, .* of heldout_text"):
        main(Args(input_files=(few,), against=text))
    with pytest.raises(UserError, match=r"no such prediction file: .*gone\.jsonl"):
        main(Args(input_files=(few,), against=predictions / "gone.jsonl"))
    with pytest.raises(UserError, match="add --against"):
        main(Args(input_files=(few,), differences_file=predictions / "d.json"))


def test_different_gold_completions_are_refused(predictions):
    one = write_predictions(predictions / "one.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    changed = [TEXTS[0] | {"completion": "abc"}, TEXTS[1]]
    other = write_predictions(predictions / "other.jsonl", changed, kind="text", eval_set="heldout_text")
    with pytest.raises(UserError, match="different gold completions for 1 items, such as 't-0'"):
        main(Args(input_files=(one,), against=other))


def test_method_changes_the_interval_and_is_recorded(predictions):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args(method="bca"))
    assert load_metrics(metrics_file(path)).metrics["accuracy"] == bootstrap_mean([1, 0, 1, 1], method="bca")
    with pytest.raises(UserError, match="method was 'bca', now None"):
        main(Args())
