"""Every stage script runs the command line that the plan has for its job, and takes nothing silently."""

import json
import os
import subprocess

import pytest

from open_instruct import paths
from open_instruct.plan import Job, plan
from open_instruct.study import load_study

SCRIPTS = paths.REPOSITORY / "scripts" / "slurm_scripts"


def run_script(job: Job, echo) -> list[list[str]]:
    """The command lines that the job's stage script runs."""
    environment = {"PATH": f"{echo}:{os.environ['PATH']}", **paths.environment(), **job.variables}
    subprocess.run(["bash", str(SCRIPTS / job.script), *job.arguments], env=environment, check=True, cwd="/")
    logs = sorted(echo.glob("*.log"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    for log in logs:
        log.unlink()
    return lines


def settings(command: list[str]) -> dict[str, list[str]]:
    """Flag -> values; the last of a repeated flag counts, as in the scripts."""
    found: dict[str, list[str]] = {}
    for part in command:
        if part.startswith("--"):
            found[part] = []
        elif found:
            found[list(found)[-1]].append(part)
        # A flag that comes again moves to the end.
        if part.startswith("--"):
            found[part] = found.pop(part)
    return found


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
