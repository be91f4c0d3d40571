"""benchmarks/README.md lists every program with commands that parse; the GPU check refuses what cannot run."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from open_instruct.common.cli import parse
from open_instruct.common.json_files import write_json
from open_instruct.common.paths import REPOSITORY

TABLE = (REPOSITORY / "benchmarks" / "README.md").read_text()
COMMANDS = re.findall(r"`python (benchmarks/\S+\.py)([^`]*)`", TABLE)
HELPERS = {"scaling_inputs.py", "catwalk_side.py", "simulation.py", "check.py", "figures.py"}


def test_the_readme_lists_every_program():
    programs = {path.name for path in (REPOSITORY / "benchmarks").glob("*/*.py")} - HELPERS
    assert programs == {script.split("/")[-1] for script, _ in COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=[f"{script}{options}" for script, options in COMMANDS])
def test_commands_of_the_readme_parse(script, arguments, monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark", REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look up their module
    spec.loader.exec_module(module)
    parse(module.Args, shlex.split(arguments))


@pytest.mark.slow
def test_the_gpu_check_runs_in_miniature_on_a_cpu(tmp_path):
    command = ["bash", "benchmarks/gpu/check.sh", "--tiny", "--parts", "finetune", "generate", "modes"]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "check")],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = (tmp_path / "check" / "figures.txt").read_text()
    assert "MISSED" not in figures
    for expected in (
        "short: Trainer, largest relative difference of a loss",
        "that differ from transformers'",
        "steps saved, largest difference",
    ):
        assert expected in figures


def test_an_unknown_part_of_the_gpu_check_is_refused():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu/check.py", "--parts", "speed"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--parts speed: no such part; there are finetune, rank" in done.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("check.sh", "error: python3 has no torch; make .venv: bash scripts/setup.sh olmo,dev"),
        ("prepare.sh", "error: .venv/bin/python is not there; bash scripts/setup.sh makes .venv"),
    ],
)
def test_gpu_scripts_say_what_makes_the_environment(tmp_path, script, message):
    folder = tmp_path / "benchmarks" / "gpu"
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "benchmarks" / "gpu" / script, folder)
    write_json(tmp_path / "study" / "results" / "tiny" / "findings.json", [])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to("/bin/false")
    (tmp_path / ".gpu").mkdir()
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(folder / script), str(tmp_path / "study")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert (tmp_path / ".gpu").is_dir()
