import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_study import STUDY, write_study

from analysis.produce_tables import Args, main
from analysis.tables.columns import FILES, Comparison
from analysis.tables.curve_names import name_series
from analysis.tables.frames import order_checkpoints, read_tables, relation, select
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.sidecars import find_sidecar, sidecar_path

SMALL = (
    STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]")
    .replace("  hellaswag_endings: {epochs: 3, lr: 1e-3}\n  qa_chat: {epochs: 5, lr: 1e-3}\n", "")
    .replace("  hellaswag_endings: {}\n  sciq: {}\n  rte: {}\n  mrpc: {}\n", "")
    .replace("openbookqa, hellaswag, boolq], train_sets: [qa_chat]", "boolq]")
)


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    return write_study(tmp_path, num_items=12, text=SMALL)


def table_bytes():
    return {path.name: path.read_bytes() for path in sorted(paths.results_dir("simulated").glob("*.csv"))}


def test_tables_have_a_row_for_each_model_evaluation_and_metric_and_the_original_columns_first(study_file):
    main(Args(study_file))
    tables = read_tables(paths.results_dir("simulated"))
    assert list(tables.performance.columns[:4]) == ["model_id", "eval dataset", "Performance", "std"]
    # 6 models; socialiqa in 3 formats with ROUGE-L and bits per byte, held-out text with bits per byte only.
    assert len(tables.performance) == 6 * (3 * 2 + 1)
    assert set(tables.performance["eval dataset"]) == {
        "socialiqa",
        "socialiqa_instruct",
        "socialiqa_inputoutput",
        "heldout_text",
    }
    # 3 base models, 3 tasks, 3 forms of accuracy in the simulated suite files.
    assert len(tables.suites) == 3 * 3 * 3
    assert tables.missing.empty


def test_differences_are_the_simulated_ones(study_file):
    main(Args(study_file))
    differences = read_tables(paths.results_dir("simulated")).differences
    where = {"series": "socialiqa", "eval_set": "socialiqa", "format": "default", "metric": "bits_per_byte"}
    gains = select(differences, comparison=Comparison.CHANGE, **where)
    assert list(gains["checkpoint"]) == ["0", "20", "60"]
    # The simulated gain is 0.5 + 0.2 i; the noise of a model is 0.02 for each item.
    assert gains["difference"].to_numpy() == pytest.approx([-0.5, -0.7, -0.9], abs=0.05)
    mean = select(differences, comparison=Comparison.MEAN_CHANGE, **where)
    # Step 0, the random initialisation, is not averaged in.
    assert mean["difference"].item() == pytest.approx(gains["difference"].iloc[1:].mean())


def test_tables_from_the_cache_have_the_same_bytes(study_file):
    main(Args(study_file))
    first, cache = table_bytes(), paths.base_dir() / "output" / "measurements_cache.parquet"
    assert cache.is_file()
    main(Args(study_file))
    assert table_bytes() == first
    cache.write_bytes(b"damaged")
    main(Args(study_file))
    assert table_bytes() == first


def test_missing_measurements_are_listed_and_their_mean_is_empty(study_file):
    gone = paths.prediction_file("heldout_text", "default", "checkpoint-20").with_suffix(".metrics.json")
    gone.unlink()
    unfinished = paths.suite_file("boolq", "checkpoint-60")
    sidecar_path(unfinished).unlink()
    main(Args(study_file))
    tables = read_tables(paths.results_dir("simulated"))
    assert list(zip(tables.missing["model_id"], tables.missing["eval dataset"], strict=True)) == [
        ("checkpoint-20", "heldout_text"),
        ("checkpoint-60", "boolq"),
    ]
    assert list(tables.missing["reason"]) == ["no such file", "unfinished: it has no sidecar"]
    mean = select(tables.differences, comparison=Comparison.MEAN_CHANGE, eval_set="heldout_text")
    assert np.isnan(mean["difference"].item())
    assert mean["missing"].item() == "missing: base at 20"


def test_items_whose_value_is_no_number_are_listed_and_in_no_mean(study_file):
    path = paths.prediction_file("heldout_text", "default", "checkpoint-20").with_suffix(".metrics.json")
    content = read_json(path)
    content["items"]["gold_bits"][3:5] = [float("nan"), float("nan")]
    path.write_text(json.dumps(content))
    main(Args(study_file))
    tables = read_tables(paths.results_dir("simulated"))
    num_items = len(content["items"]["id"])
    assert list(tables.missing["reason"]) == [f"bits_per_byte of 2 of {num_items} items is no number"]
    assert list(tables.missing["file"]) == [str(path.relative_to(paths.base_dir()))]
    mean = select(tables.differences, comparison=Comparison.MEAN_CHANGE, eval_set="heldout_text")
    assert mean["missing"].item() == "values that are no numbers: base at 20"


def test_models_outside_the_study_are_left_out(study_file):
    study_file.write_text(SMALL.replace("[0, 20, 60]", "[0, 60]"))
    main(Args(study_file))
    assert set(read_tables(paths.results_dir("simulated")).performance["checkpoint"]) == {"0", "60"}
    main(Args())
    assert set(read_tables(paths.results_dir("all")).performance["checkpoint"]) == {"0", "20", "60"}


def test_two_models_of_one_id_are_refused(study_file, tmp_path):
    base = "checkpoint-20"
    for number, path in enumerate(sorted((tmp_path / "output" / "predictions").glob(f"*_{base}.metrics.json"))[:2]):
        predictions = path.with_name(path.name.replace(".metrics.json", ".jsonl"))
        predictions.touch()
        record(path, {"predictions": (paths.relative(predictions), "p")})
        record(predictions, {"model": (f"/models/run{number}", f"hash {number}")})
    with pytest.raises(
        UserError, match=rf"{base} is the id of two models: .* is of /models/run0, and .* of /models/run1;"
    ):
        main(Args(study_file))


def record(path: Path, inputs: dict[str, tuple[str, str]]) -> None:
    """Let the sidecar of `path` have these inputs: role -> location and hash."""
    sidecar = find_sidecar(path) or {"identity": {}, "arguments": {}, "files": {}}
    sidecar |= {"input_paths": {role: location for role, (location, _) in inputs.items()}}
    write_json(sidecar_path(path), sidecar | {"inputs": {role: found for role, (_, found) in inputs.items()}})


def test_without_measurements_the_error_names_the_stage_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"no finished measurement .*eval_pred\.py"):
        main(Args())


def test_reading_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match=FILES["differences"]):
        read_tables(tmp_path)


def test_tables_of_an_older_version_are_refused_by_the_columns_that_they_lack(study_file):
    main(Args(study_file))
    path = paths.results_dir("simulated") / "levels.csv"
    pd.read_csv(path).drop(columns=["unit", "group"]).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"levels.csv: no column unit, group, so it is of another version"):
        read_tables(path.parent)


@pytest.mark.parametrize(
    ("name", "value"), [("gold_bits", [100.0] * 11), ("gold_bytes", [0.0] + [50.0] * 11)], ids=["too few", "no bytes"]
)
def test_a_file_whose_items_do_not_fit_each_other_is_refused_by_name(study_file, name, value):
    path = sorted((study_file.parent / "output/predictions").glob("socialiqa_*.metrics.json"))[0]
    content = json.loads(path.read_text())
    content["items"][name] = value
    write_json(path, content)
    with pytest.raises(UserError, match=rf"{path.name}: found 12 of id, .*expected as many of each"):
        main(Args(study_file))


def test_changes_name_the_setting_where_an_evaluation_has_several(study_file):
    for path in sorted((study_file.parent / "output/predictions").glob("*.metrics.json")):
        content = json.loads(path.read_text())
        content["identity"]["shots"] = 4
        other = path.with_name(path.name.replace(".metrics", "_4shots.metrics"))
        write_json(other, content)
        sidecar_path(other).write_bytes(sidecar_path(path).read_bytes())
    main(Args())
    changes = read_tables(paths.results_dir("all")).changes
    assert not changes.duplicated(["series", "eval dataset", "setting", "metric"]).any()
    assert {"socialiqa 0 shots", "socialiqa 4 shots"} <= set(changes["setting"])


def test_checkpoints_are_sorted_by_step_with_main_last():
    assert order_checkpoints(["main", "1000", "18000", "20"]) == ["20", "1000", "18000", "main"]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("in-domain of xsum", "in-domain"),
        ("in-domain of mnli", "other"),
        ("out-of-domain of xsum", "out-of-domain"),
        ("pre-training", "pre-training"),
        ("own text of xsum", "own text"),
        ("own text of mnli", "pre-training"),
        ("other", "other"),
    ],
)
def test_relation_of_an_evaluation_set_to_the_train_set_xsum(role, expected):
    assert relation(role, "xsum") == expected


def test_series_are_named_by_the_settings_that_differ():
    row = {"model_id": "m", "family": "tiny", "train_set": "xsum", "step": 20, "epochs": 3, "lr": 1e-3, "seed": 42}
    row |= {"adapter": "full", "kind": "text", "shots": 0, "protocol": "corrected", "eval_set": "text"}
    named = name_series([row, {**row, "lr": 1e-4}, {**row, "train_set": None, "step": None}])
    assert [r["series"] for r in named] == ["xsum lr=0.001", "xsum lr=0.0001", "base"]
    assert [r["checkpoint"] for r in named] == ["20", "20", "main"]
    assert {r["setting"] for r in named} == {"text"}


def test_what_is_not_set_is_named_by_its_default_where_another_is_set():
    row = {"model_id": "m", "family": "tiny", "train_set": "xsum", "step": 20, "kind": "text", "eval_set": "text"}
    named = name_series([row, {**row, "rows": 8, "settings": "fp32", "limit": 3, "conditions": "fp16"}])
    assert [r["series"] for r in named] == ["xsum rows=all settings=default", "xsum rows=8 settings=fp32"]
    assert [r["setting"] for r in named] == ["text all items default", "text 3 items fp16"]


def test_a_model_without_identity_is_a_series_of_its_own():
    identity = ("family", "train_set", "step", "epochs", "lr", "seed", "adapter", "shots", "protocol")
    row = dict.fromkeys(identity) | {"model_id": "OLMo-1B-hf", "kind": "text", "eval_set": "text"}
    assert [named["series"] for named in name_series([row])] == ["OLMo-1B-hf"]
