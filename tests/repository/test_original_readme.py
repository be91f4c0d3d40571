"""What the README of the study's original code promises: docs/original_code.md's commands are run, in their order."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from paper_stores import PUBLISHED, STEP, paper_stores
from released_tables import write_released

from open_instruct.common.json_files import read_json, read_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.study.executors.warm_process import run
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS

PAGE = (REPOSITORY / "docs" / "original_code.md").read_text()
SECTION = PAGE[PAGE.index("## Its README") : PAGE.index("## Its options")]
COMMANDS = re.findall(r"^\| .* \| `(.*)` \|$", SECTION, re.MULTILINE)
TUNED = f"olmo1b_hf_ckpt{STEP}_xsum_anyrows_3epoch_2e-7"
STAND_INS = (
    (r"^conda .*|^export .*", ""),
    (r"sbatch", "bash"),
    (r"jupyter notebook", "jupyter nbconvert --to notebook --execute --output-dir drawn"),
    # The data sets are small copies, which names then say.
    (r"(format_generalization\.py)", r"\1 --any_row_count"),
    (r"((?<=data_file_name=)\w+|(?<=data_file_name=\")xsum|\brte\b|^output_file_name=.*(?=\.jsonl))", r"\1_anyrows"),
    (r"_(\d)epoch", r"_anyrows_\1epoch"),
)


@pytest.fixture
def clone(base_dir, monkeypatch):
    """A folder in which the commands find the repository's files, and base_dir."""
    for name in ("CITATION.cff", "analysis", "eval", "open_instruct", "scripts"):
        (base_dir / name).symlink_to(REPOSITORY / name)
    write_released(base_dir / "results" / "analysis")
    monkeypatch.chdir(base_dir)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    with paper_stores(base_dir, suite_tasks=()):
        yield base_dir


def execute(command: str) -> None:
    """Run it: a Python command in this process, which knows where the stores are."""
    for pattern, replacement in STAND_INS:
        command = re.sub(pattern, replacement, command)
    words = shlex.split(command)
    is_variable = [re.match(r"\w+=", word) is not None for word in words]
    start = is_variable.index(False) if False in is_variable else len(words)
    variables = dict(word.split("=", 1) for word in words[:start])
    if words[start : start + 1] == ["python"]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            run(words[start + 1 :])
    elif words[start:]:
        done = subprocess.run(words[start:], env=os.environ | variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_row_has_a_command():
    assert len(COMMANDS) == SECTION.count("\n| ") - 1 > 12


@pytest.mark.slow
@pytest.mark.olmo
@pytest.mark.filterwarnings("ignore:'olmo_eval.run_lm_eval' found")
def test_each_promise_is_kept(clone):
    for command in COMMANDS:
        execute(command)
    data, output = clone / "data", clone / "output"
    on_hub = [name for name, one in TRAIN_SETS.items() if all(split.hub for split in one.splits)]
    assert len(on_hub) == 5
    for name in on_hub:
        assert next(read_jsonl(data / f"{name}_anyrows.jsonl"))["dataset"] == name
    for name, one in EVAL_SETS.items():
        for task_format in one.template.prompts:
            ending = "" if task_format == "default" else f"_{task_format}"
            assert list((data / "evaluation").glob(f"{name}{ending}*.jsonl")), name

    assert read_json(output / f"{PUBLISHED}_published" / "meta.json")["identity"]["train_set"] == "xsum"
    predicted = list(read_jsonl(output / "predictions" / f"xsum_{TUNED}_anyrows.jsonl"))
    assert len(predicted) == 40
    assert all("output" in row for row in predicted)
    scores = pd.read_csv(clone / "results" / "all" / "all_perf_table.csv")
    assert {("xsum", "rouge_l"), ("rte", "accuracy")} <= set(zip(scores["eval_set"], scores["metric"], strict=True))
    (suite,) = read_json(clone / "eval_results" / "eval_pipeline" / "openbookqa_tulu.json")["metrics"]
    assert suite["num_instances"] == 500
    assert (clone / "drawn" / "gen_paper_figs.ipynb").is_file()
    released = pd.read_csv(clone / "results" / "released" / "all_perf_table.csv")
    assert set(released["family"]) == {"olmo1b"}
