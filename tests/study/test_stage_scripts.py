"""Every stage script runs the command line that the plan has for its job, and takes nothing silently."""

import subprocess

import pytest
from stage_scripts import SCRIPTS, run_script, settings

from open_instruct.common import paths
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan


def test_stage_scripts_run_what_is_planned(echo, base_dir, monkeypatch):
    spaced = base_dir / "a folder"
    spaced.mkdir()
    monkeypatch.setenv("base_dir", str(spaced))
    file = paths.REPOSITORY / "scripts" / "studies" / "tiny.yaml"
    jobs = {job.stage: job for job in plan(load_study(file), file)}
    for job in jobs.values():
        (line,) = run_script(job, echo)
        script = next(part for part in job.command if part != "-m")
        line = line[line.index(script) :]
        if job.command[0] == "-m":
            # tables are told apart by what follows the module
            assert script in line
        wanted = settings(list(job.command))
        found = settings(line)
        assert {flag: found.get(flag) for flag in wanted} == wanted, job.stage
        assert set(found) - set(wanted) <= {
            "--download_in_parallel",
            "--tokenizer_name_or_path",
            "--dtype",
            "--stop_file",
            "--output_dir",
        }, job.stage


def test_every_stage_script_is_planned_or_downloads():
    file = paths.REPOSITORY / "scripts" / "studies" / "tiny.yaml"
    planned = {job.script for job in plan(load_study(file), file)}
    assert planned | {"download_ckpts.sh"} == {path.name for path in SCRIPTS.glob("*.sh")}


@pytest.mark.parametrize(
    ("script", "variable"),
    [
        ("fine_tune_olmo.sh", "data_file_name"),
        ("generate_pred.sh", "model_path"),
        ("evaluate_it_model.sh", "model_path"),
    ],
)
def test_what_must_be_set_is_asked_for(script, variable, echo):
    done = subprocess.run(
        ["bash", str(SCRIPTS / script)],
        env={"PATH": f"{echo}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"set {variable} to" in done.stderr
    assert not list(echo.glob("*.log"))
