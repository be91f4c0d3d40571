"""The studies of the paper measure what the released tables have, and their numbers are found again."""

import re

import pandas as pd
import pytest
from released_tables import SOURCES, tables_of
from simulated_study import write_with_sidecar

from analysis import compare_paper, produce_tables
from analysis.inference.paper_coverage import KEY, Measured, count_coverage, key_of, planned_keys
from analysis.tables.released import read_released
from open_instruct.checkpoints.families import step_name
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.loading import load_study

STUDIES = {name: paths.REPOSITORY / "scripts" / "studies" / f"{name}.yaml" for name in ("paper", "paper_protocol")}
PERFORMANCE = "all_perf_table.csv"
TABLES = (PERFORMANCE, "official_eval_table.csv", "it_perf_table.csv")


def is_covered(table: str, model_id: str, dataset: str, study) -> bool:
    """By hand, from the names in the tables."""
    if table != PERFORMANCE:
        return dataset in study.suite.tasks
    shots = re.search(r"_(\d)shots", model_id)
    without_labels = study.protocol == "paper" and dataset.startswith(("qqp", "stsb"))
    return (not shots or shots[1] in "04") and "2e-5" not in model_id and not without_labels


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", STUDIES)
def test_the_papers_studies_cover_all_rows_but_other_shots_recipes_suites_and_hidden_labels(name, source, tmp_path):
    folder, study = tables_of(source, tmp_path / "tables"), load_study(STUDIES[name])
    rows, _ = read_released(folder)
    measured = Measured(planned_keys(study))
    found = {row["source"] for row in rows if measured.why_missing(row) is None}
    expected = {
        f"{table}:{number}"
        for table in TABLES
        for number, row in enumerate(pd.read_csv(folder / table).to_dict("records"), start=2)
        if is_covered(table, row["model_id"], row["eval dataset"], study)
    }
    assert found == expected
    tables, reasons = count_coverage(rows, measured)
    assert sum(covered for covered, _ in tables.values()) == len(expected) > 100
    assert sum(reasons.values()) == len(rows) - len(expected)
    if source == "released":
        hidden = 50 if name == "paper_protocol" else 0
        assert list(tables.values()) == [(649 - 18 - 1 - hidden, 649), (107, 107), (20, 97)]


def test_a_row_that_is_not_covered_is_named_with_the_first_difference():
    base = {"checkpoint": "1000", "train_set": None, "epochs": None, "lr": None}
    tuned = base | {"train_set": "xsum", "epochs": 3, "lr": 2e-7}
    evaluation = {"kind": "generation", "eval_set": "xsum", "format": "default", "shots": 4, "metric": "rouge_l"}
    measured = Measured([key_of(base | evaluation), key_of(tuned | evaluation)])
    assert set(KEY) == {*base, *evaluation}
    assert measured.why_missing(tuned | evaluation | {"lr": 2.0000001e-7}) is None
    for change, reason in (
        ({"checkpoint": "main"}, "no model of step main"),
        ({"train_set": "tulu"}, "no model fine-tuned on tulu"),
        ({"lr": 2e-6}, "no xsum model of 3 epochs with learning rate 2e-06"),
        ({"eval_set": "cnn"}, "cnn is not evaluated"),
        ({"kind": "suite"}, "xsum of the suite is not evaluated"),
        ({"format": "instruct", "shots": 0}, "xsum is not evaluated in format instruct"),
        ({"shots": 2}, "xsum is not evaluated with 2 shots"),
        ({"metric": "accuracy"}, "xsum has no accuracy"),
    ):
        assert measured.why_missing(tuned | evaluation | change) == reason


def test_the_coverage_of_several_studies_is_printed(tmp_path, capsys):
    folder = tables_of("made here", tmp_path / "tables")
    compare_paper.main(compare_paper.Args(folder, coverage=tuple(STUDIES.values())))
    lines = capsys.readouterr().out.splitlines()
    total = len(pd.read_csv(folder / PERFORMANCE))
    assert lines[:3] == [
        "paper (protocol corrected) measures of the published numbers:",
        f"  {total - 1} of {total} of {PERFORMANCE}",
        "    not measured (1): no mnli model of 3 epochs with learning rate 2e-05",
    ]
    assert "paper_protocol (protocol paper) measures of the published numbers:" in lines
    assert any(line.endswith("qqp is not evaluated") for line in lines)


def test_coverage_of_a_table_of_this_project_is_refused():
    with pytest.raises(UserError, match="is a table of this project; expected the folder of the authors"):
        compare_paper.main(compare_paper.Args(paths.RELEASED_RESULTS, coverage=tuple(STUDIES.values())))


def write_planned(study, published) -> set:
    """Write the files of the study's plan whose numbers are published, with these; returns their keys."""
    written = set()
    for variant in study.variants():
        model = variant.identity() | {"checkpoint": step_name(variant.checkpoint.step)}
        for one in study.evaluations():
            dataset = study.datasets.eval_set(one.eval_set)
            identity = model | {"eval_set": one.eval_set, "format": one.task_format, "shots": one.num_shots}
            identity |= {"kind": dataset.kind, "role": dataset.role, "protocol": study.protocol}
            key = key_of(identity | {"metric": dataset.metric})
            if key in published:
                score = published[key]["Performance"]
                value = {"mean": score, "standard_error": 0.004, "ci_low": score, "ci_high": score, "n": 1000}
                content = {"identity": identity, "primary": dataset.metric, "metrics": {dataset.metric: value}}
                write_with_sidecar(one.metrics_file(one.prediction_file(variant.model_id)), content, identity)
                written.add(key)
        for task, path in study.suite_files(variant)[0].items() if study.suite.includes(variant) else ():
            suite = {"kind": "suite", "eval_set": task, "format": "default", "shots": 0, "metric": "acc"}
            key = key_of(model | suite)
            if key in published:
                result = {"task": task, "num_instances": 1000, "task_options": {"num_shots": 0}}
                result |= {"metrics": {"rc_metrics": {"acc": published[key]["Performance"]}}}
                write_with_sidecar(path, {"metrics": [result]}, model | {"task": task})
                written.add(key)
    return written


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", STUDIES)
def test_each_covered_row_is_compared_with_the_number_of_the_study(name, source, tmp_path, base_dir):
    folder, study = tables_of(source, tmp_path / "tables"), load_study(STUDIES[name])
    rows, _ = read_released(folder)
    written = write_planned(study, {key_of(row): row for row in rows})
    produce_tables.main(produce_tables.Args(study=STUDIES[name]))
    compare_paper.main(compare_paper.Args(folder, study=STUDIES[name]))
    numbers = pd.read_csv(paths.results_dir(name) / "paper" / "numbers.csv")
    measured = Measured(planned_keys(study))
    covered = {row["source"]: row for row in rows if measured.why_missing(row) is None}
    assert {key_of(row) for row in covered.values()} == written
    found = numbers[numbers["own"].notna()]
    assert set(found["published_source"]) == set(covered)
    assert set(found["own_protocol"].dropna()) == {study.protocol}
    assert set(numbers["published_source"]) == {row["source"] for row in rows}
