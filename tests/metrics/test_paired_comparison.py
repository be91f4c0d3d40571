"""Paired differences of prediction files, and of suite files, by eval_pred.py --against; both as CSV."""

import csv
import json
import math

import pytest
from simulated_study import write_with_sidecar
from toy_predictions import RELATIONS, TEXTS, write_predictions

from eval.eval_pred import Args, main
from eval.metrics.bootstrap import bootstrap_mean
from eval.metrics.metrics_file import load_metrics
from open_instruct.common.errors import UserError
from open_instruct.common.paths import metrics_file
from open_instruct.common.sidecars import read_sidecar


def corrected(record):
    return record | {"output": record["completion"], "gold_logprob": -0.5}


def test_differences_have_an_interval_and_a_p_value(predictions, capsys):
    # One of the four items is wrong in base, which has the items in reverse order.
    base = write_predictions(predictions / "base.jsonl", RELATIONS[::-1], kind="labels", eval_set="rte")
    tuned = write_predictions(
        predictions / "tuned.jsonl", [corrected(r) for r in RELATIONS], kind="labels", eval_set="rte"
    )
    out = predictions / "difference.json"
    main(Args(input_files=(tuned,), against=(base,), differences_file=out))
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
        main(Args(input_files=(all_,), against=(few,)))
    with pytest.raises(UserError, match="and 1 the other way round"):
        main(Args(input_files=(few,), against=(all_,)))
    with pytest.raises(UserError, match=r"is of evaluation set rte; .* of evaluation set heldout_text"):
        main(Args(input_files=(few,), against=(text,)))
    with pytest.raises(UserError, match=r"no such file: .*gone\.jsonl"):
        main(Args(input_files=(few,), against=(predictions / "gone.jsonl",)))
    with pytest.raises(UserError, match="add --against"):
        main(Args(input_files=(few,), differences_file=predictions / "d.json"))


def test_different_gold_completions_are_refused(predictions):
    one = write_predictions(predictions / "one.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    changed = [TEXTS[0] | {"completion": "abc"}, TEXTS[1]]
    other = write_predictions(predictions / "other.jsonl", changed, kind="text", eval_set="heldout_text")
    with pytest.raises(UserError, match="different gold completions for 1 items, such as 't-0'"):
        main(Args(input_files=(one,), against=(other,)))


def test_method_changes_the_interval_and_is_recorded(predictions):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args(method="bca"))
    main(Args())
    found = {suffix: load_metrics(metrics_file(path, suffix)).metrics["accuracy"] for suffix in ("", "_bca")}
    assert found == {"": bootstrap_mean([1, 0, 1, 1]), "_bca": bootstrap_mean([1, 0, 1, 1], method="bca")}


OPTIONS = {"split": "validation", "num_shots": 0, "limit": 4, "random_subsample_seed": 1234, "batch_size": 32}


def write_suite(path, correct, *, task="sciq", ids="abcd", **options):
    """A suite file as run_lm_eval writes it; `correct`: 1 or 0 of each item."""
    items = {"id": list(ids), "acc": correct, "gold_bits": [8.0] * len(ids), "gold_bytes": [4] * len(ids)}
    result = {"task": task, "task_options": OPTIONS | options, "num_instances": len(ids), "model": path.stem}
    result |= {"metrics": {"rc_metrics": {"acc": sum(correct) / len(ids)}}, "items": items}
    write_with_sidecar(path, {"metrics": [result]}, {"model_id": path.stem, "task": task})
    return path


def test_suite_files_are_paired_by_item(base_dir, capsys):
    # The same items in another order; a batch size changes no metric.
    base = write_suite(base_dir / "base.json", [0, 0, 1, 1], ids="dcba", batch_size=8)
    tuned = write_suite(base_dir / "tuned.json", [1, 1, 1, 0])
    out = base_dir / "difference.json"
    main(Args(input_files=(tuned,), against=(base,), differences_file=out))
    found = json.loads(out.read_text())[str(tuned)]
    # Tuned minus base for a, b, c, d: 0, 0, 1, 0.
    assert found["sciq.acc"]["mean"] == 0.25
    assert found["sciq.acc"]["p_value"] == 1  # by McNemar's test of a single discordant item
    expected = bootstrap_mean([0, 0, 1, 0])
    assert (found["sciq.acc"]["ci_low"], found["sciq.acc"]["ci_high"]) == (expected.ci_low, expected.ci_high)
    assert found["sciq.bits_per_byte"]["mean"] == 0
    output = capsys.readouterr().out
    assert "tuned minus base on sciq\n  acc: +0.2500 ± 0.2500 [" in output
    assert "(McNemar), 4 items" in output


def test_several_files_are_each_compared_with_that_of_the_same_task(base_dir):
    tuned = [write_suite(base_dir / f"{task}_tuned.json", [1, 1, 1, 1], task=task) for task in ("sciq", "rte")]
    tasks = ("rte", "sciq")
    base = [write_suite(base_dir / f"{task}_base.json", [1, 1, 1, task != "rte"], task=task) for task in tasks]
    out = base_dir / "differences.csv"
    main(Args(input_files=tuple(tuned), against=tuple(base), differences_file=out))
    rows = list(csv.DictReader(out.open()))
    accuracies = [row for row in rows if row["metric"] == "acc"]
    assert [(row["file"], row["against"], row["mean"]) for row in accuracies] == [
        (str(tuned[0]), str(base[1]), "0.0"),
        (str(tuned[1]), str(base[0]), "0.25"),
    ]
    assert read_sidecar(out)["arguments"]["against"] == [str(path) for path in base]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "rte"}, r"tuned\.json is of suite task sciq; --against .*base\.json of suite task rte"),
        ({"num_shots": 5}, "on suite task sciq with other options: num_shots is 0 and 5; evaluate one of them again"),
        ({"limit": None}, "other options: limit is 4 and None"),
        ({"ids": "abce"}, r"found 1 items of .*tuned\.json that are not in .*base\.json, such as 'd'"),
    ],
    ids=["task", "shots", "limit", "items"],
)
def test_suite_files_of_other_tasks_options_or_items_are_refused(base_dir, change, message):
    base = write_suite(base_dir / "base.json", [0, 0, 1, 1], **change)
    tuned = write_suite(base_dir / "tuned.json", [1, 1, 1, 0])
    with pytest.raises(UserError, match=message):
        main(Args(input_files=(tuned,), against=(base,)))


def test_suite_files_are_refused_where_there_is_nothing_to_compare(base_dir, predictions):
    suite = write_suite(base_dir / "sciq.json", [1, 1, 1, 0])
    with pytest.raises(UserError, match=r"suite files have their scores in them.*add --against"):
        main(Args(input_files=(suite,)))
    prediction = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="sciq")
    with pytest.raises(UserError, match=r"of suite task sciq; --against .*a\.jsonl of evaluation set sciq"):
        main(Args(input_files=(suite,), against=(prediction,)))
    with pytest.raises(UserError, match=r"a\.metrics\.json: found no tasks in it; expected a metrics file of"):
        main(Args(input_files=(metrics_file(prediction),), against=(suite,)))
    with pytest.raises(UserError, match=r"expected a name that ends in \.csv or \.json"):
        main(Args(input_files=(suite,), against=(suite,), differences_file=base_dir / "differences.txt"))


def test_scores_as_csv_have_a_row_for_each_file_and_metric(predictions):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte", shots=2)
    write_predictions(predictions / "b.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    for _ in range(2):  # files that were scored before are in it, too
        main(Args(output_csv=predictions / "scores.csv"))
    rows = list(csv.DictReader((predictions / "scores.csv").open()))
    files = (path, predictions / "b.jsonl")
    expected = [(str(file), name) for file in files for name in load_metrics(metrics_file(file)).metrics]
    assert [(row["file"], row["metric"]) for row in rows] == expected
    (accuracy,) = [row for row in rows if row["metric"] == "accuracy"]
    assert (accuracy["model_id"], accuracy["eval_set"], accuracy["shots"]) == ("checkpoint-1000", "rte", "2")
    assert (accuracy["mean"], accuracy["n"]) == ("0.75", "4")
