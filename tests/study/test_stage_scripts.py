"""Stage scripts run the planned command lines, refuse missing variables and pass exit codes on."""

import os
import subprocess
from pathlib import Path

import pytest
from stage_scripts import SCRIPTS, recorded_calls, run_script, split

from open_instruct.common import paths
from open_instruct.common.errors import SAVED_AND_STOPPED
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan

TINY = paths.REPOSITORY / "scripts" / "studies" / "tiny.yaml"
DEFAULTS = {"--download_in_parallel", "--tokenizer_name_or_path", "--dtype", "--stop_file", "--output_dir"}
"""Options that a stage script adds to the planned ones."""


def test_stage_scripts_run_the_planned_commands(recorders, base_dir, monkeypatch):
    base_with_space = base_dir / "a folder"
    base_with_space.mkdir()
    monkeypatch.setenv("base_dir", str(base_with_space))
    for job in {job.stage: job for job in plan(load_study(TINY))}.values():
        program, options = split(run_script(job, recorders))
        planned_program, planned_options = split(job.command)
        assert program == planned_program
        assert {flag: options.get(flag) for flag in planned_options} == planned_options, job.stage
        assert options.keys() - planned_options.keys() <= DEFAULTS, job.stage


def test_a_planned_suite_does_not_depend_on_variables_of_the_users_shell(recorders, base_dir):
    job = next(job for job in plan(load_study(TINY, ["suite.limit=null"])) if job.stage == "suite")
    of_user = {"PATH": f"{recorders}:{os.environ['PATH']}", "num_shots": "4", "limit": "7"}
    environment = os.environ | of_user | paths.environment() | dict(job.variables)
    subprocess.run(["bash", str(SCRIPTS / job.script), *job.arguments], env=environment, check=True)
    (call,) = recorded_calls(recorders)
    assert not {"--num_shots", "--limit"} & {*call}


def test_the_embedded_study_uses_every_stage_script_but_download():
    planned = {job.script for job in plan(load_study(TINY))}
    assert planned | {"download_ckpts.sh"} == {path.name for path in SCRIPTS.glob("*.sh")}


@pytest.mark.parametrize(
    ("script", "given", "missing"),
    [
        ("fine_tune_olmo.sh", {"ckpt": "4"}, "data_file_name"),
        ("fine_tune_olmo.sh", {"data_file_name": "socialiqa"}, "ckpt"),
        ("generate_pred.sh", {}, "model_path"),
        ("evaluate_it_model.sh", {}, "model_path"),
    ],
)
def test_a_missing_variable_is_named_and_nothing_runs(script, given, missing, recorders):
    environment = {"PATH": f"{recorders}:/usr/bin:/bin"} | given
    done = subprocess.run(["bash", str(SCRIPTS / script)], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"set {missing} to" in done.stderr
    assert recorded_calls(recorders) == []


def test_files_of_a_folder_with_too_few_exemplars_are_left_out_of_few_shot_evaluation(recorders, base_dir):
    folder = base_dir / "data of mine" / "evaluation"
    folder.mkdir(parents=True)
    for name, num_exemplars in (("heldout_text", None), ("mrpc", 1), ("rte", 2)):
        (folder / f"{name}.jsonl").touch()
        if num_exemplars is not None:
            (folder / f"{name}.exemplars.jsonl").write_text("{}\n" * num_exemplars)

    def predicted(*arguments: str, **given: str) -> tuple[list[str], str]:
        environment = os.environ | {"PATH": f"{recorders}:{os.environ['PATH']}", "data_dir": str(folder.parent)}
        command = ["bash", str(SCRIPTS / "generate_pred.sh"), *arguments]
        environment |= {"model_path": "model"} | given
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        calls = recorded_calls(recorders)
        return [Path(one).stem for one in split(tuple(calls[0]))[1]["--input_files"]] if calls else [], done.stderr

    assert predicted() == (["heldout_text", "mrpc", "rte"], "")
    files, message = predicted(num_shots="2")
    assert files == ["rte"]
    assert "left out, with fewer than 2 exemplars: heldout_text mrpc\n" in message
    assert "--few_shot_sets NAME" in message
    # What is named is not left out: predict.py refuses it with what to type.
    assert predicted(num_shots="2", data_file_name="mrpc")[0] == ["mrpc"]
    assert predicted("--input_files", "mrpc.jsonl", num_shots="2") == (["mrpc"], "")
    assert "no file is left in" in predicted(num_shots="3")[1]
    assert predicted(num_shots="four") == ([], "error: num_shots is four; expected a number, e.g. num_shots=4\n")
    # An empty folder has no files, and no pattern in place of one.
    nothing, message = predicted(num_shots="2", data_dir=str(base_dir / "nowhere"))
    assert nothing == []
    assert "no file is left in" in message
    assert "left out" not in message
    # Not the whole folder where exemplars alone are named.
    assert "no file is left in" in predicted(input_files="rte.exemplars.jsonl")[1]


@pytest.mark.parametrize(("written", "exit_code"), [("saved", SAVED_AND_STOPPED), ("", 7)])
def test_fine_tuning_that_saved_its_state_has_the_exit_code_of_a_stop(written, exit_code, recorders, base_dir):
    """Launchers replace the exit code of finetune.py, which tells by the stop file that it saved its state."""
    environment = os.environ | {"PATH": f"{recorders}:{os.environ['PATH']}", "base_dir": str(base_dir)}
    environment |= {"data_file_name": "socialiqa", "ckpt": "4", "SLURM_JOB_ID": "1"}
    stop_file = base_dir / "output" / "stop-1"
    (recorders / "accelerate").write_text(f"#!/bin/sh\nprintf '{written}' > '{stop_file}'\nexit 7\n")
    done = subprocess.run(["bash", str(SCRIPTS / "fine_tune_olmo.sh")], env=environment)
    assert done.returncode == exit_code
    assert not stop_file.exists()
