"""Import of the authors' released tables. The environment variable released_tables adds a test on the original ones."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from released_tables import CONSTANT, SOURCES, degenerate_models, tables_of, write_released

from analysis import produce_tables
from analysis.figures.study_figures import draw_figure
from analysis.inference.degenerate_results import degenerate_results
from analysis.inference.result_tables import build_tables
from analysis.tables.chance import chance_of
from analysis.tables.frames import Tables, number, read_tables
from analysis.tables.gathering import gather_released
from open_instruct.common import paths
from open_instruct.common.errors import UserError

IMPROVING = ("hellaswag", "arc_challenge", "arc_easy", "sciq", "openbookqa")
OWN = {"mnli": "mnli_matched", "xsum": "xsum", "socialiqa": "socialiqa", "paws": "paws"}
OUT = {"rte": "mnli", "gpt3nli": "mnli", "cnn": "xsum", "xlsum": "xsum", "sciq": "socialiqa", "tweetqa": "socialiqa"}
OUT |= {"qqp": "paws", "stsb": "paws"}


@pytest.fixture(scope="module", params=SOURCES)
def released(request, tmp_path_factory):
    """(folder of the released tables, the tables made from them)"""
    base_dir = tmp_path_factory.mktemp("base")
    folder = tables_of(request.param, base_dir / "tables")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        produce_tables.main(produce_tables.Args(released=folder))
        yield folder, read_tables(paths.results_dir("released"))


def scores_of(folder: Path, name: str) -> dict[tuple[str, str], float]:
    frame = pd.read_csv(folder / name)
    return dict(zip(zip(frame["model_id"], frame["eval dataset"], strict=True), frame["Performance"], strict=True))


def model_of(model_id: str) -> tuple[str | None, str, str]:
    """(train set or None, checkpoint, shots), parsed independently of the importer."""
    shots = re.search(r"_(\d)shots", model_id)
    step = re.search(r"(?:checkpoint-|ckpt)(\d+)", model_id)
    train_set = re.search(r"_(mnli|paws|socialiqa|xsum|tulu)_", model_id)
    return (train_set[1] if train_set else None), (step[1] if step else "main"), (shots[1] if shots else "0")


def drawn(tables: Tables, name: str) -> dict[str, list[float]]:
    """Panel title (its first line) -> every y value with a marker."""
    found: dict[str, list[float]] = {}
    for axes in draw_figure(name, tables).axes:
        title = axes.get_title().split("\n")[0].removesuffix(" (degenerate)")
        lines = [line for line in axes.get_lines() if line.get_marker() not in ("None", "", "_")]
        lines = [line for line in lines if line.get_markerfacecolor() != "white"]  # hollow ones lie on others
        ys = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines]) if lines else np.array([])
        found.setdefault(title, []).extend(ys[~np.isnan(ys)].tolist())
    return found


def contains(found: list[float], wanted: list[float]) -> bool:
    return all(np.isclose(found, value, rtol=1e-11, atol=1e-12).any() for value in wanted)


def four_shot(scores):
    """(train set, checkpoint, dataset) -> score, with 4 shots, in transformers format, with the usual recipe."""
    return {
        (*model_of(model)[:2], dataset): value
        for (model, dataset), value in scores.items()
        if model_of(model)[2] == "4" and "_hf" in model and "2e-5" not in model
    }


@pytest.mark.slow
def test_appendix_and_suite_figures_show_every_row(released):
    folder, tables = released
    scores = drawn(tables, "appendix_a_scores")
    for (model, dataset), value in scores_of(folder, "all_perf_table.csv").items():
        shots = model_of(model)[2]
        title = dataset if shots == "4" else f"{dataset} {shots} shots"
        assert contains(scores[title], [value]), (model, dataset)
    suites = drawn(tables, "fig4_suites")
    for name in ("official_eval_table.csv", "it_perf_table.csv"):
        for (model, dataset), value in scores_of(folder, name).items():
            title = f"{dataset}_cot_chat" if model.endswith("cot_chat") else dataset
            assert contains(suites[title], [value]), (model, dataset)


def test_figure_2_shows_every_base_model(released):
    folder, tables = released
    found = drawn(tables, "fig2_base_models")
    suites = scores_of(folder, "official_eval_table.csv")
    base = {key: value for key, value in suites.items() if model_of(key[0])[0] is None}
    assert contains(found["Improving"], [v for (_, dataset), v in base.items() if dataset in IMPROVING])
    others = [v for (_, dataset), v in base.items() if dataset == "boolq"]
    scores = four_shot(scores_of(folder, "all_perf_table.csv"))
    others += [v for (train_set, _, name), v in scores.items() if train_set is None and name in OWN.values()]
    assert contains(found["Not improving"], others)
    assert len(found["Not improving"]) == len(others)
    llmbar = [v for (train_set, _, name), v in scores.items() if train_set is None and name.startswith("llmbar")]
    assert contains(found["Instruction following"], llmbar)


def test_figures_3_and_5_show_base_and_fine_tuned_models(released):
    folder, tables = released
    scores = four_shot(scores_of(folder, "all_perf_table.csv"))
    own, formats = drawn(tables, "fig3_own_task"), drawn(tables, "fig5_task_format")
    for train_set, dataset in OWN.items():
        wanted = [v for (name, _, where), v in scores.items() if name in (None, train_set) and where == dataset]
        assert len(own[dataset]) == len(wanted)
        assert contains(own[dataset], wanted)
        names = {dataset, f"{dataset}_instruct", f"{dataset}_inputoutput"}
        wanted = [v for (name, _, where), v in scores.items() if name in (None, train_set) and where in names]
        assert contains(formats[dataset], wanted)


def test_figures_6_and_7_show_every_change(released):
    folder, tables = released
    scores = four_shot(scores_of(folder, "all_perf_table.csv"))
    crossed, out = drawn(tables, "fig6_cross_task"), drawn(tables, "fig7_out_of_domain")
    num_crossed = 0
    for (train_set, checkpoint, dataset), value in scores.items():
        if train_set is None or (None, checkpoint, dataset) not in scores:
            continue
        change = value - scores[None, checkpoint, dataset]
        if dataset in OWN.values() and OWN.get(train_set) != dataset:
            assert contains(crossed[dataset], [change]), (train_set, checkpoint, dataset)
            num_crossed += 1
        if OUT.get(dataset) == train_set:
            assert contains(out[f"fine-tuned on {train_set}"], [change]), (train_set, checkpoint, dataset)
    assert num_crossed > 20


def is_above_chance(tables, checkpoints, pairs):
    """Whether all base scores are, of each checkpoint."""
    found = []
    for _, train_set, name in pairs:
        rows = tables.levels[(tables.levels["series"] == "base") & (tables.levels["eval dataset"] == name)]
        rows = rows[(rows["setting"] == name) & ((rows["kind"] == "suite") == (train_set == "tulu"))]
        rows = rows.set_index("checkpoint").loc[checkpoints]
        chance = chance_of(rows["eval_set"].iloc[0], rows["kind"].iloc[0])
        found.append(rows["ci_low"].to_numpy(float) > (np.inf if chance is None else chance))
    return np.all(found, axis=0)


@pytest.mark.parametrize("group", ["improving", "not improving"])
def test_group_averages_match_the_released_scores(released, group):
    folder, tables = released
    scores = four_shot(scores_of(folder, "all_perf_table.csv"))
    suites = scores_of(folder, "official_eval_table.csv")
    suite_scores = {(*model_of(model)[:2], name): value for (model, name), value in suites.items()}
    if group == "improving":
        pairs = [(suite_scores, "tulu", name) for name in IMPROVING]
    else:
        pairs = [(scores, train_set, name) for train_set, name in OWN.items()] + [(suite_scores, "tulu", "boolq")]
    checkpoints = sorted({c for _, c, _ in suite_scores}, key=lambda c: (c == "main", int(c) if c != "main" else 0))
    base = np.array([[found[None, c, name] for c in checkpoints] for found, _, name in pairs])
    tuned = np.array([[found[train_set, c, name] for c in checkpoints] for found, train_set, name in pairs])
    rows = tables.groups[tables.groups["group"] == group].set_index("checkpoint")
    each = rows.loc[checkpoints]
    assert rows["tasks"].unique().tolist() == [5]
    assert each["mean raw change"].to_numpy(float) == pytest.approx((tuned - base).mean(axis=0))
    # No relative change where a base is not clearly above chance.
    relative, has_relative = ((tuned - base) / base).mean(axis=0), is_above_chance(tables, checkpoints, pairs)
    assert each["mean relative change"].notna().tolist() == has_relative.tolist()
    assert each["mean relative change"].to_numpy(float)[has_relative] == pytest.approx(relative[has_relative])
    assert each["base slope per checkpoint"].to_numpy(float)[1:] == pytest.approx(np.diff(base.mean(axis=0)))
    assert each["fine-tuned slope per checkpoint"].to_numpy(float)[1:] == pytest.approx(np.diff(tuned.mean(axis=0)))
    overall, x = rows.loc["all"], np.arange(len(checkpoints)) - (len(checkpoints) - 1) / 2
    assert overall["mean raw change"] == pytest.approx((tuned - base).mean())
    expected = pytest.approx(relative.mean()) if has_relative.all() else None
    assert number(overall["mean relative change"]) == expected
    # The least-squares slope over centred x, by hand.
    assert overall["base slope per checkpoint"] == pytest.approx((base.mean(axis=0) @ x) / (x @ x))
    assert overall["fine-tuned slope per checkpoint"] == pytest.approx((tuned.mean(axis=0) @ x) / (x @ x))


def test_only_sets_with_constant_gold_are_detected_as_such(released):
    _, tables = released
    constant = [result.setting for result in degenerate_results(tables) if result.kind == "constant gold"]
    assert {setting.split()[0] for setting in constant} == set(CONSTANT)


def test_known_faults_of_the_original_tables_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    folder = tables_of("released", tmp_path)
    tables = build_tables(gather_released(folder))
    constant = {
        dataset: {
            model_of(model)[1]
            for model, name, task_format in degenerate_models(tables.performance, "accuracy of always answering")
            if (name, task_format) == (dataset, "default") and model_of(model)[::2] == (None, "4")
        }
        for dataset in ("mnli_matched", "paws")
    }
    assert constant["mnli_matched"] == {"1000", "738000", "main"}
    assert constant["paws"] == {"1000", "18000", "424000", "738000", "main"}
    by_kind: dict[str, list[str]] = {}
    for result in degenerate_results(tables):
        by_kind.setdefault(result.kind, []).append(result.where)
    assert by_kind["broken checkpoint"] == ["424000 on xsum"]
    assert "tulu conversion=native at 342000, 424000, 505000, main on gsm" in by_kind["repeated value"]
    assert {where.split("_")[0] for where in by_kind["gold in prompt"]} == {"all rows of llmbar"}


def test_standard_error_of_a_suite_score_is_binomial(released):
    _, tables = released
    row = tables.suites[tables.suites["eval_set"] == "arc_easy"].iloc[0]
    assert row["n"] == 570
    assert row["std"] == pytest.approx(np.sqrt(row["Performance"] * (1 - row["Performance"]) / 570))


def test_missing_checkpoints_of_a_curve_are_listed_and_its_mean_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    produce_tables.main(produce_tables.Args(released=write_released(tmp_path / "tables")))
    tables = read_tables(paths.results_dir("released"))
    assert "mnli at 342000" in set(tables.missing["model_id"])
    mean = tables.differences[
        (tables.differences["comparison"] == "fine-tuned - base, mean over checkpoints")
        & (tables.differences["series"] == "mnli")
        & (tables.differences["eval dataset"] == "paws")
    ]
    assert mean["difference"].isna().all()
    assert mean["missing"].item() == "missing: mnli at 342000"


def test_all_unknown_names_and_numbers_are_refused_in_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    folder = write_released(tmp_path / "tables")
    table = folder / "all_perf_table.csv"
    with table.open("a") as file:
        file.write("900,some_llama,xsum,0.1,0.01\n901,olmo1b_original_hf_4shots,xsumm,0.1,0.01\n")
        file.write("902,olmo1b_original_hf_4shots,xsum,much,0.01\n903,olmo1b_original_hf_4shots,xsum,0.1,little\n")
    problems = (
        r"'some_llama'.*unknown evaluation set xsumm \(did you mean xsum.*'xsum': much ± 0\.01; .*'xsum': 0\.1 ± little"
    )
    with pytest.raises(UserError, match=f"4 rows .*{problems}"):
        produce_tables.main(produce_tables.Args(released=folder))


def test_two_rows_of_the_same_model_and_evaluation_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    folder = write_released(tmp_path / "tables")
    with (folder / "all_perf_table.csv").open("a") as file:
        file.write("900,olmo1b_original_hf_4shots,xsum,0.1,0.01\n")
    with pytest.raises(UserError, match=r"all_perf_table\.csv:\d+ and all_perf_table\.csv:\d+ are both base main xsum"):
        produce_tables.main(produce_tables.Args(released=folder))


def test_a_folder_without_the_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="all_perf_table"):
        produce_tables.main(produce_tables.Args(released=tmp_path))
