"""scripts/test.sh and scripts/quickstart.sh pass their arguments on; scripts/setup.sh installs what is missing."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from open_instruct.common.paths import REPOSITORY

PROGRAM = """#!/bin/sh
[ "$1" != -c ] || exit 1
line=${0##*/}; for part; do line="$line [$part]"; done; echo "$line" >> "$LOG"
"""
"""Records its name and arguments in $LOG, by one write: two programs run at once. Fails where it is to run code."""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the scripts and the lock, with programs in .venv/bin, and an uv, that only record their calls."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in (".venv/bin/python", ".venv/bin/ruff", ".venv/bin/basedpyright", "bin/uv"):
        program = tmp_path / name
        program.write_text(PROGRAM)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("LOG", str(tmp_path / "calls"))
    return tmp_path


def calls(clone: Path, script: str, *arguments: str) -> list[str]:
    (clone / "calls").write_text("")
    subprocess.run(["bash", str(clone / "scripts" / script), *arguments], cwd="/", check=True, capture_output=True)
    return (clone / "calls").read_text().splitlines()


def installs(clone: Path, script: str, *arguments: str) -> list[str]:
    return [call for call in calls(clone, script, *arguments) if "[install]" in call]


def test_test_script_checks_the_code_and_passes_arguments_to_pytest(clone):
    arguments = ["-m", "not slow and not slurm and not browser", "tests/study", "-k", "a b"]
    calls(clone, "setup.sh", "olmo,dev")
    found = calls(clone, "test.sh", *arguments)
    # The types are checked beside the tests, so their order is open.
    assert found[:2] == ["ruff [check] [.]", "ruff [format] [--check] [.]"]
    types, tests = sorted(found[2:])
    assert types == "basedpyright"
    assert tests.startswith("python [-m] [pytest] ")
    assert tests.endswith(" ".join(f"[{argument}]" for argument in arguments))


@pytest.mark.parametrize("failing", ["python", "basedpyright", "ruff"])
def test_test_script_fails_where_tests_types_or_lint_fail(clone, failing):
    calls(clone, "test.sh")
    (clone / ".venv" / "bin" / failing).write_text("#!/bin/sh\nexit 7\n")
    done = subprocess.run(["bash", str(clone / "scripts" / "test.sh")], check=False, capture_output=True)
    assert done.returncode == 7


def test_quickstart_passes_arguments_to_the_study(clone):
    found = calls(clone, "quickstart.sh", "--num_parallel", "1")
    assert found[-1] == "python [scripts/run_study.py] [scripts/studies/tiny.yaml] [--num_parallel] [1]"


def test_setup_installs_once_and_again_after_a_change_of_the_pins(clone):
    first, second = (installs(clone, "setup.sh") for _ in range(2))
    assert len(first) == 2
    assert second == []
    with (clone / "constraints.txt").open("a") as locked:
        locked.write("one-more==1.0\n")
    assert len(installs(clone, "setup.sh")) == 2
    # Other extras are another environment.
    assert "[.[olmo,dev]]" in installs(clone, "setup.sh", "olmo,dev")[-1]


def test_setup_installs_torch_by_pip_and_the_rest_by_uv_where_there_is_one(clone):
    torch, rest = installs(clone, "setup.sh")
    assert torch.startswith("python [-m] [pip]")
    assert torch.endswith("[torch]")
    assert rest.startswith("uv [pip] [install]")
    assert rest.endswith("[--editable] [.[olmo]]")
    (clone / "bin" / "uv").write_text("#!/bin/sh\nexit 127\n")
    assert {call.split()[0] for call in installs(clone, "setup.sh", "olmo,dev")} == {"python"}


def test_setup_keeps_a_torch_that_is_there(clone):
    (clone / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    uv = '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" != --constraint ] || cat "$2" >> "$LOG"; shift; done\n'
    (clone / "bin" / "uv").write_text(uv)
    locked = calls(clone, "setup.sh")
    names = {line.partition("==")[0]: line.partition("==")[2] for line in locked}
    assert names["torch"] == version("torch")
    assert "transformers" in names
    # What torch requires itself may have another version than that of the lock.
    assert not {"sympy", "nvidia-cublas"} & names.keys()


@pytest.mark.parametrize("extras", ["olmo,dve", "--dev", "olm", "../olmo"])
def test_setup_refuses_an_unknown_extra(clone, extras):
    done = subprocess.run(["bash", str(clone / "scripts" / "setup.sh"), extras], capture_output=True, text=True)
    assert done.returncode == 2
    assert "is no extra of pyproject.toml; expected some of olmo,gpu,track,vllm,dev" in done.stderr
    assert not (clone / "calls").exists()


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/bin/false", "expected Python 3.10 to 3.13, found: "),
        ("/nosuch", "PYTHON is /nosuch, which is no program"),
        ("3.99", "PYTHON is python3.99, which is no program"),
        (sys.executable, "; remove .venv to make it again, or leave PYTHON out"),
    ],
)
def test_setup_refuses_another_python(clone, monkeypatch, python, message):
    monkeypatch.setenv("PYTHON", python)
    script = str(clone / "scripts" / "setup.sh")
    done = subprocess.run(["bash", script], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
