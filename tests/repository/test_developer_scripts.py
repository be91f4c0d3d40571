"""scripts/test.sh and scripts/quickstart.sh pass their arguments on; scripts/setup.sh installs once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from open_instruct.common.paths import REPOSITORY

PROGRAM = '#!/bin/sh\nline=${0##*/}; for part; do line="$line [$part]"; done; echo "$line" >> "$LOG"\n'
"""Records its name and arguments in $LOG, by one write: two programs run at once."""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the scripts and requirements, with programs in .venv/bin that only record their calls."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "ruff", "basedpyright"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(PROGRAM)
        program.chmod(0o755)
    monkeypatch.setenv("LOG", str(tmp_path / "calls"))
    return tmp_path


def calls(clone: Path, script: str, *arguments: str) -> list[str]:
    (clone / "calls").write_text("")
    subprocess.run(["bash", str(clone / "scripts" / script), *arguments], cwd="/", check=True, capture_output=True)
    return (clone / "calls").read_text().splitlines()


def test_test_script_checks_the_code_and_passes_arguments_to_pytest(clone):
    arguments = ["-m", "not slow and not slurm and not browser", "tests/study", "-k", "a b"]
    found = [call for call in calls(clone, "test.sh", *arguments) if "[pip]" not in call]
    # The types are checked beside the tests, so their order is open.
    assert found[:2] == ["ruff [check] [.]", "ruff [format] [--check] [.]"]
    assert sorted(found[2:]) == [
        "basedpyright",
        "python [-m] [pytest] " + " ".join(f"[{argument}]" for argument in arguments),
    ]


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
    first, second = (calls(clone, "setup.sh") for _ in range(2))
    assert any("[install]" in call for call in first)
    assert second == []
    with (clone / "requirements.txt").open("a") as pins:
        pins.write("one-more==1.0\n")
    assert calls(clone, "setup.sh") == first


@pytest.mark.parametrize(
    ("python", "message"),
    [("/bin/false", "Python 3.11 expected; set PYTHON="), ("/nosuch", "PYTHON is /nosuch, which is no program")],
)
def test_setup_refuses_another_python(clone, monkeypatch, python, message):
    monkeypatch.setenv("PYTHON", python)
    script = str(clone / "scripts" / "setup.sh")
    done = subprocess.run(["bash", script], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
