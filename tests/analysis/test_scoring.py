"""Predictions that have no metrics, or changed since, are scored before the tables are made."""

import pytest
from simulated_study import write_study
from toy_predictions import RELATIONS, write_predictions

from analysis import produce_tables
from analysis.tables.frames import read_tables, select
from eval import eval_pred
from open_instruct.common import paths
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.sidecars import sidecar_path

SMALL = """\
name: simulated
family: olmo1b
steps: [0, 20]
evaluation:
  rte: {}
  heldout_text: {}
"""


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    return write_study(tmp_path, num_items=12, text=SMALL)


@pytest.fixture
def prediction(study_file):
    """Predictions of checkpoint-20 on rte, without their metrics."""
    path = paths.prediction_file("rte", "default", "checkpoint-20")
    for gone in (metrics := path.with_suffix(".metrics.json"), sidecar_path(metrics)):
        gone.unlink()
    identity = {"model_id": "checkpoint-20", "family": "olmo1b", "step": 20}
    return write_predictions(path, RELATIONS, kind="labels", eval_set="rte", **identity)


def accuracy_of(study, model_id="checkpoint-20"):
    performance = read_tables(paths.results_dir(study)).performance
    return select(performance, model_id=model_id, eval_set="rte", metric="accuracy")["Performance"].tolist()


def test_predictions_of_a_study_without_metrics_are_scored(study_file, prediction, capsys):
    produce_tables.main(produce_tables.Args(study_file))
    assert "scored 1 new or changed predictions; 0 could not be scored" in capsys.readouterr().out
    assert accuracy_of("simulated") == [0.75]  # three of four are correct
    assert read_tables(paths.results_dir("simulated")).missing.empty


def test_nothing_is_scored_on_demand(study_file, prediction):
    produce_tables.main(produce_tables.Args(study_file, skip_scoring=True))
    assert read_tables(paths.results_dir("simulated")).missing["reason"].tolist() == ["no such file"]
    assert not prediction.with_suffix(".metrics.json").exists()


def test_predictions_that_cannot_be_scored_are_listed_with_the_reason(study_file, prediction, capsys):
    lines = prediction.read_text().splitlines(keepends=True)
    prediction.write_text("".join([*lines, lines[0]]))
    for study, args in (("simulated", produce_tables.Args(study_file)), ("all", produce_tables.Args())):
        produce_tables.main(args)
        (row,) = read_tables(paths.results_dir(study)).missing.to_dict("records")
        assert "not scored: " in row["reason"]
        assert "id 'r-0' for the second time" in row["reason"]
        assert row["file"] == paths.relative(prediction.with_suffix(".metrics.json"))
        assert "1 could not be scored" in capsys.readouterr().out
        assert accuracy_of(study) == []


def test_of_a_folder_only_predictions_that_no_settings_scored_are_scored(study_file, prediction, capsys):
    eval_pred.main(eval_pred.Args(input_files=(prediction,), method="bca", num_resamples=100))
    capsys.readouterr()
    produce_tables.main(produce_tables.Args())
    assert "scored" not in capsys.readouterr().out
    assert accuracy_of("all") == [0.75]


def test_predictions_that_changed_since_are_scored_again(study_file, prediction):
    identity = {"model_id": "checkpoint-20", "family": "olmo1b", "step": 20}
    for study, args in (("simulated", produce_tables.Args(study_file)), ("all", produce_tables.Args())):
        write_predictions(prediction, RELATIONS, kind="labels", eval_set="rte", **identity)
        produce_tables.main(args)
        assert accuracy_of(study) == [0.75]
        write_predictions(prediction, [*RELATIONS[:1], *RELATIONS[2:]], kind="labels", eval_set="rte", **identity)
        produce_tables.main(args)
        assert accuracy_of(study) == [1.0]


def test_predictions_of_the_original_code_have_no_sidecar_and_are_in_the_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    record = {"dataset": "mnli1", "prompt": "p", "completion": "neutral", "output": " neutral"}
    names = ("mnli_matched_olmo1b_original_hf", "mnli_matched_instruct_olmo1b_original_hf")
    for name in names:
        path = paths.base_dir() / "output" / "predictions" / f"{name}.jsonl"
        write_jsonl(path, [record | {"id": i} for i in range(3)])
    produce_tables.main(produce_tables.Args())
    rows = select(read_tables(paths.results_dir("all")).performance, metric="accuracy")
    assert set(rows["model_id"]) == set(names)
    assert sorted(rows["eval dataset"]) == ["mnli_matched", "mnli_matched_instruct"]
    assert rows["Performance"].tolist() == [1, 1]
