import json
import math

import pytest
from toy_predictions import RELATIONS, TEXTS, write_predictions

from eval.eval_pred import Args, load_metrics, main
from eval.metrics.bootstrap import bootstrap_mean
from eval.metrics.significance import mcnemar
from open_instruct.common.errors import UserError
from open_instruct.common.paths import metrics_file


def right(record):
    return record | {"output": record["completion"], "gold_logprob": -0.5}


def test_the_difference_has_an_interval_and_is_tested_by_mcnemar(predictions, capsys):
    # One item of the four was wrong before; the other file lists the items the other way round.
    base = write_predictions(predictions / "base.jsonl", RELATIONS[::-1], kind="labels", eval_set="rte")
    tuned = write_predictions(predictions / "tuned.jsonl", list(map(right, RELATIONS)), kind="labels", eval_set="rte")
    out = predictions / "difference.json"
    main(Args(input_files=(tuned,), against=base, differences_file=out))
    found = json.loads(out.read_text())[str(tuned)]
    assert found["accuracy"]["mean"] == 0.25
    assert found["accuracy"]["p_value"] == mcnemar([1, 1, 1, 1], [1, 0, 1, 1])
    expected = bootstrap_mean([0, 1, 0, 0])
    assert (found["accuracy"]["ci_low"], found["accuracy"]["ci_high"]) == (expected.ci_low, expected.ci_high)
    # Half a nat less on each of four items, over 3 * 11 + 8 bytes.
    num_bytes = sum(len(record["completion"]) for record in RELATIONS)
    assert found["bits_per_byte"]["mean"] == pytest.approx(-4 * 0.5 / math.log(2) / num_bytes)
    assert "tuned minus base\n  accuracy: +0.2500 ± 0.2500 [" in capsys.readouterr().out


def test_of_other_items_there_is_no_difference(predictions):
    few = write_predictions(predictions / "few.jsonl", RELATIONS[:3], kind="labels", eval_set="rte")
    all_ = write_predictions(predictions / "all.jsonl", RELATIONS, kind="labels", eval_set="rte")
    text = write_predictions(predictions / "text.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    with pytest.raises(UserError, match=r"found 1 items of .*all\.jsonl that are not in .*few\.jsonl, 'r-3' for one"):
        main(Args(input_files=(all_,), against=few))
    with pytest.raises(UserError, match="and 1 the other way round"):
        main(Args(input_files=(few,), against=all_))
    with pytest.raises(UserError, match=r"is of rte, .* of heldout_text"):
        main(Args(input_files=(few,), against=text))
    with pytest.raises(UserError, match=r"no such prediction file: .*gone\.jsonl"):
        main(Args(input_files=(few,), against=predictions / "gone.jsonl"))
    with pytest.raises(UserError, match="add --against"):
        main(Args(input_files=(few,), differences_file=predictions / "d.json"))


def test_other_gold_completions_are_not_compared(predictions):
    one = write_predictions(predictions / "one.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    changed = [TEXTS[0] | {"completion": "abc"}, TEXTS[1]]
    other = write_predictions(predictions / "other.jsonl", changed, kind="text", eval_set="heldout_text")
    with pytest.raises(UserError, match="other gold completions for 1 items, 't-0' for one"):
        main(Args(input_files=(one,), against=other))


def test_intervals_by_the_method_asked_for(predictions):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args(method="bca"))
    assert load_metrics(metrics_file(path)).metrics["accuracy"] == bootstrap_mean([1, 0, 1, 1], method="bca")
    with pytest.raises(UserError, match="method was 'bca', now None"):
        main(Args())
