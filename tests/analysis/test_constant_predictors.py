"""Models that give one answer to nearly all items: recorded with the metrics, and marked in the tables."""

import json

import pytest
from released_tables import degenerate_models
from simulated_study import write_with_sidecar
from toy_predictions import RELATIONS, write_predictions

from analysis import produce_tables
from analysis.inference.degenerate_results import degenerate_results
from analysis.tables.frames import number, read_tables, select, where
from analysis.tables.gathering import has_same_choices
from eval import eval_pred
from eval.metrics.metrics_file import load_metrics
from open_instruct.common import paths
from open_instruct.common.json_files import write_json

GOLD = ["entailment", "neutral"] * 20


def predictions_of(model_id: str, outputs: list[str], **more: bool):
    path = paths.prediction_file("rte", "default", model_id)
    records = [
        RELATIONS[0] | {"id": f"r-{i}", "completion": f" {gold}", "output": output} | more
        for i, (gold, output) in enumerate(zip(GOLD, outputs, strict=True))
    ]
    train_set = {"train_set": "mnli"} if model_id.endswith("mnli") else {}
    return write_predictions(
        path, records, kind="labels", eval_set="rte", model_id=model_id, family="olmo1b", **train_set
    )


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Of a base model with 39 of 40 predictions the same, and of a fine-tuned one with 37."""
    monkeypatch.setenv("base_dir", str(tmp_path))
    predictions_of("checkpoint-1000", ["entailment"] * 39 + ["neutral"])
    predictions_of("tuned_mnli", ["neutral"] * 37 + ["entailment"] * 3)
    eval_pred.main(eval_pred.Args())
    write_suite("boolq", "checkpoint-1000", [[1, 0.97], [0, 0.03]])
    write_suite("sciq", "checkpoint-1000", [[3, 0.97], [0, 0.03]])
    produce_tables.main(produce_tables.Args())
    return read_tables(paths.results_dir("all"))


def write_suite(task: str, model_id: str, chosen: list[list[float]]) -> None:
    result = {"task": task, "num_instances": 100, "task_options": {}}
    found = {"acc": 0.6, "acc_raw": 0.6, "predicted_indices_raw": chosen, "primary_metric": "acc_raw"}
    result["metrics"] = {"rc_metrics": found}
    identity = {"model_id": model_id, "family": "olmo1b", "step": 1000}
    write_with_sidecar(paths.suite_file(task, model_id), {"metrics": [result]}, identity | {"task": task})


def test_share_of_the_most_frequent_prediction_is_in_the_metrics_file(tables):
    path = paths.metrics_file(paths.prediction_file("rte", "default", "checkpoint-1000"))
    found = load_metrics(path).metrics["most_frequent_prediction"]
    assert (found.mean, found.n) == (39 / 40, 40)


def test_outputs_that_are_no_label_count_as_one_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    path = predictions_of("checkpoint-1000", [f"text {i}" for i in range(40)], finished=True)
    eval_pred.main(eval_pred.Args())
    assert load_metrics(paths.metrics_file(path)).metrics["most_frequent_prediction"].mean == 1


def test_accuracy_has_the_share_beside_it_and_macro_f1_rows_of_its_own(tables):
    shares = select(tables.performance, metric="accuracy").set_index("model_id")["most_frequent_prediction"]
    assert shares.to_dict() == {"checkpoint-1000": 0.975, "tuned_mnli": 0.925}
    scores = select(tables.performance, metric="macro_f1").set_index("model_id")["Performance"]
    # entailment 2 * 20 / (20 + 39), neutral 2 * 1 / (20 + 1).
    assert scores["checkpoint-1000"] == pytest.approx((40 / 59 + 2 / 21) / 2)
    assert "accuracy" in set(tables.differences["metric"])
    assert "macro_f1" not in set(tables.differences["metric"])


def test_models_with_one_answer_are_constant_predictors(tables):
    assert degenerate_models(tables.performance) == {("checkpoint-1000", "rte", "default")}
    assert degenerate_models(tables.suites) == {("checkpoint-1000", "boolq", "default")}
    listed = [found for found in degenerate_results(tables) if found.kind == "constant predictor"]
    assert [(found.where, found.why) for found in listed] == [
        ("checkpoint-1000 on rte", "97.5% of its predictions are one answer"),
        ("checkpoint-1000 on boolq", "97.0% of its predictions are one answer"),
    ]


def test_levels_and_tables_for_latex_mark_them(tables):
    marked = where(tables.levels, tables.levels["degenerate"].notna())
    reasons = dict(zip(marked["setting"], marked["degenerate"], strict=True))
    assert reasons == {
        "rte": "one answer for nearly all items: base at 1000",
        "boolq": "unsound: base at 1000 (97.0% of its predictions are one answer)",
    }
    folder = paths.results_dir("all") / "tables"
    rows = [line.split(" & ") for line in (folder / "all_perf_table.tex").read_text().splitlines()]
    cells = {tuple(row[2:4]): row[-1] for row in rows if row[0] == "rte"}
    assert cells["accuracy", "base"].endswith(r")$^\dagger$ \\")
    assert not any("dagger" in cell for name, cell in cells.items() if name != ("accuracy", "base"))


def test_a_metrics_file_without_the_share_leaves_it_empty(tables):
    path = paths.metrics_file(paths.prediction_file("rte", "default", "checkpoint-1000"))
    content = json.loads(path.read_text())
    del content["metrics"]["most_frequent_prediction"]
    write_json(path, content)
    produce_tables.main(produce_tables.Args(skip_scoring=True))
    found = read_tables(paths.results_dir("all")).performance
    row = select(found, model_id="checkpoint-1000", metric="accuracy").iloc[0]
    assert number(row["most_frequent_prediction"]) is None
    assert degenerate_models(found) == set()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        *[
            ("boolq", True),
            ("boolq:olmo", True),
            ("arc_easy:mc_5shot", True),
            ("mmlu_stem", True),
            ("arc_easy:test_mc_5shot", True),
        ],
        *[("arc_easy:mc::olmes", True), ("qnli", True), ("arc_easy:rc::olmes", False), ("logiqa", False)],
        *[("sst", True), ("arc_easy_mc_std", True), ("arc_easy_std", False), ("boolq_std", True)],
        *[("arc_easy", False), ("sciq", False), ("mmlu_stem:olmo", False)],
    ],
)
def test_an_index_is_an_answer_only_where_all_items_have_the_same_choices(task, expected):
    assert has_same_choices(task) == expected
