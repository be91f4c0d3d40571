"""The paper's path to the letter: paper.yaml's first checkpoint, from stores on this machine to the released tables."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from devices import on_cpu
from paper_stores import PUBLISHED, paper_stores
from released_tables import write_released

from analysis import compare_paper, produce_tables
from analysis.inference.paper_coverage import Measured, key_of, planned_keys
from analysis.tables.released import read_released
from eval import predict
from open_instruct import download_olmo_ckpts
from open_instruct.common import paths
from open_instruct.common.json_files import read_json, read_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.executors.warm_process import run
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan

pytestmark = [pytest.mark.slow, pytest.mark.olmo, pytest.mark.filterwarnings("ignore:'olmo_eval.run_lm_eval' found")]
PAPER = paths.REPOSITORY / "scripts" / "studies" / "paper.yaml"
SETS = yaml.safe_load(PAPER.read_text())["evaluation"]
FEW = (
    *("steps=[1000]", "format.any_row_count=true", "predict.max_new_tokens=4", "suite.limit=2"),
    *(f"evaluation.{name}.limit=3" for name in SETS),
)
"""The first checkpoint, few rows, few new tokens; the rest is the paper's."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[Path]:
    """base_dir after all jobs of the plan up to the scores, and their tables; figures take a minute."""
    folder = tmp_path_factory.mktemp("paper")
    stores = paper_stores(folder, suite_tasks=load_study(PAPER).suite.tasks)
    with stores, on_cpu(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(paths.REPOSITORY)
        patch.setattr(sys, "argv", sys.argv)
        for job in plan(load_study(PAPER, FEW)):
            if job.stage not in ("report", "notebook"):
                run(list(job.command))
        produce_tables.main(produce_tables.Args(PAPER, FEW))
        yield folder


@pytest.fixture(autouse=True)
def base_dir(finished, monkeypatch) -> Path:
    monkeypatch.setenv("base_dir", str(finished))
    return finished


@pytest.fixture
def study():
    return load_study(PAPER, FEW)


def test_the_models_are_the_papers_first_base_model_and_one_of_each_train_set(study):
    models = {variant.model_id: variant for variant in study.variants()}
    assert {(one.train_set, one.epochs, one.lr) for one in models.values()} == {
        (None, None, None),
        ("xsum", 3, 2e-7),
        *((name, 3, 2e-6) for name in ("socialiqa", "mnli", "paws")),
        ("tulu", 5, 2e-6),
    }
    for variant in models.values():
        assert read_sidecar(variant.folder)["identity"] == variant.identity()
        config = read_json(variant.folder / "config.json")
        assert (config["vocab_size"], config["max_position_embeddings"], config["eos_token_id"]) == (50304, 2048, 50279)


def test_every_number_of_the_plan_is_in_the_tables(study):
    folder = paths.results_dir(study.name)
    assert (folder / "missing.csv").read_text().count("\n") == 1
    models, evaluations = list(study.variants()), study.evaluations()
    scores = pd.read_csv(folder / "all_perf_table.csv")
    own = scores[scores["metric"] == "bits_per_byte"]
    # 37 sets in their formats, with 0 and 4 exemplars.
    assert len(own) == len(models) * len(evaluations) == 6 * 37 * 2
    assert set(scores["n"]) == {3}
    suites = pd.read_csv(folder / "official_eval_table.csv")
    found = set(zip(suites["model_id"], suites["eval dataset"], suites["shots"], strict=True))
    evaluated = [one.model_id for one in models if one.train_set in (None, "tulu")]
    assert found == {(model, task, n) for model in evaluated for task in study.suite.tasks for n in (0, 4)}


def test_four_exemplars_come_from_rows_that_are_neither_trained_on_nor_evaluated(study):
    suffix = study.data_settings.suffix
    for name in ("xsum", "socialiqa", "mnli_matched", "paws", "sciq", "rte"):
        file = paths.evaluation_file(name, "default", suffix)
        prompts = {row["prompt"] for row in read_jsonl(file)}
        exemplars = {row["prompt"] for row in read_jsonl(paths.exemplar_file(file))}
        assert len(exemplars) >= 4
        assert not exemplars & prompts
        train_file = paths.train_file(name.removesuffix("_matched"), suffix)
        if train_file.is_file():
            assert not exemplars & {row["prompt"] for row in read_jsonl(train_file)}


def test_an_accuracy_is_the_share_of_predictions_that_are_the_label(study):
    scores = pd.read_csv(paths.results_dir(study.name) / "all_perf_table.csv")
    rows = scores[(scores["metric"] == "accuracy") & (scores["shots"] == 4)].to_dict("records")
    assert len(rows) == 6 * 22
    for row in rows:
        predictions = list(read_jsonl(paths.base_dir() / row["source"].replace(".metrics.json", ".jsonl")))
        is_right = [one["output"].strip() == one["completion"].strip() for one in predictions]
        assert row["Performance"] == pytest.approx(sum(is_right) / 3)


def test_the_published_numbers_of_the_checkpoint_are_compared(study, tmp_path):
    released = write_released(tmp_path / "released")
    compare_paper.main(compare_paper.Args(released, folder=paths.results_dir(study.name)))
    numbers = pd.read_csv(paths.results_dir(study.name) / "paper" / "numbers.csv")
    rows, _ = read_released(released)
    measured = Measured(planned_keys(study))
    expected = {row["source"] for row in rows if measured.why_missing(row) is None}
    assert len(expected) > 30
    compared = numbers[numbers["own"].notna()]
    assert set(compared["published_source"]) == expected
    assert {key_of(row) for row in compared.to_dict("records")} <= set(planned_keys(study))


def test_a_model_that_the_authors_published_is_measured_beside_ones_own(study):
    download_olmo_ckpts.main(download_olmo_ckpts.Args(fine_tuned=("xsum",), steps=("1000",)))
    file = paths.evaluation_file("xsum", "default", study.data_settings.suffix)
    model = paths.fine_tuned_model(f"{PUBLISHED}_published")
    predict.main(predict.Args(model_name_or_path=model, input_files=(file,), limit=(3,), max_new_tokens=4))
    produce_tables.main(produce_tables.Args())  # scores what has no scores
    scores = pd.read_csv(paths.results_dir("all") / "all_perf_table.csv")
    of_set = scores[
        (scores["eval dataset"] == "xsum") & (scores["metric"] == "rouge_l") & (scores["train_set"] == "xsum")
    ]
    is_published = of_set["settings"].str.contains("published")
    assert set(of_set[~is_published]["shots"]) == {0, 4}
    assert list(of_set[is_published]["model_id"]) == [f"{PUBLISHED}_published"]
