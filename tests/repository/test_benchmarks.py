"""benchmarks/README.md lists every program with commands that parse."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys

import pytest

from open_instruct.common.cli import parse
from open_instruct.common.paths import REPOSITORY

TABLE = (REPOSITORY / "benchmarks" / "README.md").read_text()
COMMANDS = re.findall(r"`python (benchmarks/\S+\.py)([^`]*)`", TABLE)
HELPERS = {"scaling_inputs.py", "catwalk_side.py", "check.py", "figures.py"}


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
