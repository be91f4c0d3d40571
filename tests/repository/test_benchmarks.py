"""benchmarks/README.md lists every program with commands that parse."""

import importlib.util
import re
import shlex
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
