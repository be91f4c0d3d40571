"""Metrics files of each kind of predictions; skipping, refusals and the printed table."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_predictions import LN2, RELATIONS, TEXTS, write_predictions

from eval import eval_pred
from eval.eval_pred import Args, main
from eval.metrics.bootstrap import bootstrap_mean
from eval.metrics.metrics_file import load_metrics, reported_value
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import metrics_file
from open_instruct.common.sidecars import sidecar_path

QUESTIONS = [
    {"id": "q-0", "completion": " why did he go", "output": " why did he go", "finished": True, "gold_logprob": -LN2},
    # One of three output tokens is among the four reference tokens: 2 * 1 / 7.
    {"id": "q-1", "completion": " what will happen next", "output": " what a day", "finished": False},
]
QUESTIONS[1]["gold_logprob"] = -3 * LN2


def test_metrics_of_generation(predictions):
    path = write_predictions(predictions / "a.jsonl", QUESTIONS, kind="generation", eval_set="socialiqa", shots=2)
    main(Args())
    result = load_metrics(metrics_file(path))
    assert result.primary == "rouge_l"
    assert result.identity["shots"] == 2
    assert result.items["id"] == ["q-0", "q-1"]
    assert result.items["rouge_l"] == pytest.approx([1, 2 / 7])
    assert result.metrics["rouge_l"].mean == pytest.approx(9 / 14)
    assert result.metrics["exact_match"].mean == result.metrics["finished"].mean == 0.5
    # 1 + 3 bits over 14 + 22 bytes.
    assert result.metrics["bits_per_byte"].mean == pytest.approx(4 / 36)


def test_metrics_of_labels(predictions):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args(input_files=(path,)))
    result = load_metrics(metrics_file(path))
    assert result.primary == "accuracy"
    assert result.items["accuracy"] == [1, 0, 1, 1]
    assert result.metrics["accuracy"].mean == 0.75
    # Chance is 1/2: (0.75 - 0.5) / 0.5.
    assert result.metrics["chance_corrected_accuracy"].mean == pytest.approx(0.5)
    # entailment 2 * 2 / (3 + 2), neutral 2 * 1 / (1 + 2).
    assert result.metrics["macro_f1"].mean == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert result.metrics["accuracy"] == bootstrap_mean([1, 0, 1, 1])


def test_the_papers_protocol_reports_the_midpoint_of_the_interval(predictions, capsys):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte", protocol="paper")
    main(Args(input_files=(path,)))
    accuracy = load_metrics(metrics_file(path)).metrics["accuracy"]
    midpoint = (accuracy.ci_low + accuracy.ci_high) / 2
    assert accuracy.mean == 0.75 != pytest.approx(midpoint)
    assert [reported_value(accuracy, name) for name in ("paper", "corrected", None)] == [midpoint, 0.75, 0.75]
    assert f"  {midpoint:.4f} ± " in capsys.readouterr().out
    assert reported_value(bootstrap_mean([0.5]), "paper") == 0.5


def test_rows_that_differ_in_their_conditions_alone_are_told_apart(predictions, capsys):
    default = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args(input_files=(default,)))
    assert "conditions" not in capsys.readouterr().out
    chat = write_predictions(predictions / "b.jsonl", RELATIONS, kind="labels", eval_set="rte", conditions="paper chat")
    main(Args(input_files=(default, chat)))
    header, first, second, _ = capsys.readouterr().out.splitlines()
    place = header.index("conditions")
    assert [row[place : place + 10] for row in (first, second)] == [" " * 10, "paper chat"]


def test_metrics_of_text_are_bits_per_byte_only(predictions):
    path = write_predictions(predictions / "a.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    main(Args())
    result = load_metrics(metrics_file(path))
    # 8 + 1 bits over 4 + 2 bytes.
    assert result.metrics["bits_per_byte"].mean == pytest.approx(1.5)
    assert (result.primary, list(result.metrics)) == ("bits_per_byte", ["bits_per_byte"])
    assert result.items == {"id": ["t-0", "t-1"], "gold_bits": pytest.approx([8, 1]), "gold_bytes": [4, 2]}


def test_standard_error_and_interval_of_a_single_item_are_null_in_json(predictions):
    path = write_predictions(predictions / "a.jsonl", TEXTS[:1], kind="text", eval_set="heldout_text")
    main(Args())
    written = json.loads(metrics_file(path).read_text())["metrics"]["bits_per_byte"]
    assert written == {"mean": pytest.approx(2), "standard_error": None, "ci_low": None, "ci_high": None, "n": 1}
    assert math.isnan(load_metrics(metrics_file(path)).metrics["bits_per_byte"].ci_low)


def test_unchanged_files_are_skipped_without_reading_and_changed_ones_scored_again(predictions, capsys, monkeypatch):
    first = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    write_predictions(predictions / "b.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    main(Args())
    assert "2 scored, 0 unchanged" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("open_instruct.common.hashing.sha256", lambda path: pytest.fail(f"{path} was read again"))
        main(Args())
    assert capsys.readouterr().out == "0 scored, 2 unchanged\n"
    write_predictions(first, RELATIONS[:3], kind="labels", eval_set="rte")
    main(Args())
    assert "1 scored, 1 unchanged" in capsys.readouterr().out
    assert load_metrics(metrics_file(first)).metrics["accuracy"].n == 3


def test_other_arguments_make_another_file(predictions):
    path = write_predictions(predictions / "a.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    main(Args())
    main(Args(num_resamples=100))
    for suffix, num_resamples in (("", 3000), ("_resamples100", 100)):
        sidecar = json.loads(sidecar_path(metrics_file(path, suffix)).read_text())
        assert sidecar["arguments"]["num_resamples"] == num_resamples


def test_output_file_name_selects_one_file_of_the_folder(predictions, monkeypatch, capsys):
    write_predictions(predictions / "a.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    write_predictions(predictions / "b.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    monkeypatch.setenv("output_file_name", "b")
    main(Args())
    assert [path.name for path in predictions.glob("*.metrics.json")] == ["b.metrics.json"]
    monkeypatch.setenv("output_file_name", "../b.jsonl")
    with pytest.raises(UserError, match="would become a file name"):
        main(Args())


def test_without_sidecar_the_registry_gives_the_kind(predictions):
    """Predictions made elsewhere: an evaluation record plus "output"."""
    path = predictions / "mine.jsonl"
    write_jsonl(path, [{"dataset": "socialiqa", "id": "0", "prompt": "p", "completion": " a b", "output": "a b"}])
    main(Args())
    result = load_metrics(metrics_file(path))
    assert list(result.metrics) == ["rouge_l", "exact_match"]
    assert (result.identity["model_id"], result.identity["eval_set"]) == ("mine", "socialiqa")


def test_unknown_dataset_without_sidecar_is_refused(predictions):
    write_jsonl(predictions / "mine.jsonl", [{"dataset": "socialqa", "id": "0", "completion": " a", "output": "a"}])
    with pytest.raises(UserError, match=r"mine\.jsonl:1: no sidecar .*did you mean socialiqa"):
        main(Args())


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [RELATIONS[0], RELATIONS[1] | fields]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([RELATIONS[0], {k: v for k, v in RELATIONS[1].items() if k != "output"}], "a.jsonl:2: expected output; found"),
        ([RELATIONS[0], {k: v for k, v in RELATIONS[1].items() if k != "gold_logprob"}], "a.jsonl:2: expected gold_lo"),
        (changed(output=None), "a.jsonl:2: output: expected text, found 'None'"),
        (changed(output="maybe"), "a.jsonl:2: found gold 'entailment', output 'maybe'; expected both among"),
        (changed(completion=" contradiction"), "a.jsonl:2: found gold 'contradiction'"),
        (changed(completion=""), "a.jsonl:2: found completion ''"),
        (changed(gold_logprob=math.nan), "a.jsonl:2: found gold_logprob nan"),
        (changed(gold_logprob=2.5), "a.jsonl:2: found gold_logprob 2.5"),
        (changed(id="r-0"), "a.jsonl:2: id 'r-0' for the second time"),
        ([], "a.jsonl: is empty"),
    ],
)
def test_invalid_prediction_is_refused_by_file_and_line(predictions, records, message):
    path = write_predictions(predictions / "a.jsonl", records, kind="labels", eval_set="rte")
    with pytest.raises(UserError, match=message) as caught:
        main(Args())
    assert "make it again" in str(caught.value)
    assert not metrics_file(path).exists()


def test_metrics_file_without_sidecar_is_no_result_and_not_replaced(predictions):
    path = write_predictions(predictions / "a.jsonl", TEXTS, kind="text", eval_set="heldout_text")
    main(Args())
    sidecar_path(metrics_file(path)).unlink()
    with pytest.raises(UserError, match="no sidecar"):
        load_metrics(metrics_file(path))
    with pytest.raises(UserError, match=r"a\.metrics\.json was not written by this project"):
        main(Args(overwrite=True))
    metrics_file(path).unlink()
    main(Args())
    assert load_metrics(metrics_file(path)).metrics["bits_per_byte"].mean == pytest.approx(1.5)


def test_missing_prediction_files_are_refused(predictions):
    with pytest.raises(UserError, match="no prediction file"):
        main(Args())
    with pytest.raises(UserError, match=r"no such file: .*gone\.jsonl"):
        main(Args(input_files=(predictions / "gone.jsonl",)))


def test_named_files_are_printed_even_if_unchanged(predictions, capsys):
    path = write_predictions(predictions / "a.jsonl", RELATIONS, kind="labels", eval_set="rte")
    main(Args())
    capsys.readouterr()
    main(Args(input_files=(path,)))
    shown = capsys.readouterr().out
    assert "checkpoint-1000" in shown
    assert "0.7500 ± 0.2500 [" in shown


def test_user_error_of_the_script_exits_with_code_2(predictions):
    write_predictions(predictions / "a.jsonl", [{"id": "x", "completion": " a"}], kind="generation", eval_set="sciq")
    command = [sys.executable, str(Path(eval_pred.__file__)), "--input-files", str(predictions / "a.jsonl")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "a.jsonl:1: expected output; found dataset, prompt, id, completion" in ended.stderr
