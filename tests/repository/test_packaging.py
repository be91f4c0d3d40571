"""The lock satisfies pyproject.toml; an installed wheel runs outside the repository."""

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy_study import SMALL

from open_instruct.common.olmo_package import INSTALL, INSTALL_BESIDE_NUMPY_2
from open_instruct.common.paths import REPOSITORY

PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0")
NOT_LOCKED = ("gpu", "track", "vllm")
"""Extras that need a GPU or an account."""
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()


def requirements() -> list[Requirement]:
    """Of the project and of its locked extras; lists of strings are read without tomllib, which is Python 3.11's."""
    lists = re.findall(r"^([\w-]+) = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    wanted = {name: re.findall(r'^ +"(.+)",$', lines, re.MULTILINE) for name, lines in lists}
    return [Requirement(line) for name in ("dependencies", "olmo", "dev") for line in wanted[name]]


def applies(requirement: Requirement, python: str) -> bool:
    environment = default_environment() | {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})


@pytest.fixture(scope="module")
def locked() -> list[Requirement]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_version_of_each_package_and_satisfies_the_ranges(locked, python):
    pins = [(canonicalize_name(pin.name), str(pin.specifier)) for pin in locked if applies(pin, python)]
    versions = dict(pins)
    assert len(versions) == len(pins)
    for requirement in requirements():
        if applies(requirement, python):
            pin = versions[canonicalize_name(requirement.name)]
            assert pin.startswith("=="), f"{requirement.name}{pin} is no exact pin"
            assert requirement.specifier.contains(pin.removeprefix("==")), f"{requirement}: locked is {pin}"


def test_every_command_that_installs_ai2_olmo_installs_the_same_version(locked):
    (pin,) = [str(pin.specifier) for pin in locked if pin.name == "ai2-olmo"]
    texts = [INSTALL, INSTALL_BESIDE_NUMPY_2, (REPOSITORY / "scripts" / "setup.sh").read_text()]
    assert {found for text in texts for found in re.findall(r"ai2-olmo(==[\d.]+)", text)} == {pin}


def test_the_containers_install_the_lock_from_files_that_exist():
    docker, apptainer = ((REPOSITORY / "containers" / name).read_text() for name in ("Dockerfile", "amuro.def"))
    copied = re.findall(r"^COPY (.+) \S+$", docker, re.MULTILINE)
    copied = {name for names in copied for name in names.split()}
    assert copied == set(re.findall(r"^    (\S+) /opt/amuro/$", apptainer, re.MULTILINE))
    assert copied >= {"amuro", "open_instruct", "eval", "analysis", "scripts", "pyproject.toml", "constraints.txt"}
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    (command,) = re.findall(r"pip install .+", docker)
    assert re.findall(r"pip install .+", apptainer) == [command]
    assert "--constraint constraints.txt" in command


def test_what_is_installed_is_in_the_ranges():
    for requirement in requirements():
        if applies(requirement, sys.version.split()[0]):
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                continue
            assert requirement.specifier.contains(found, prereleases=True), f"{requirement}: installed is {found}"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel as pip installs it: unpacked."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def installed(site, tmp_path, monkeypatch):
    """Runs `python -m …` with the wheel, in an empty folder.  -> what it prints, or its error"""
    monkeypatch.delenv("base_dir")
    monkeypatch.setenv("PYTHONPATH", str(site))

    def run(*arguments: str, exit_code: int = 0) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout if exit_code == 0 else done.stderr

    return run


def test_the_wheel_has_no_package_of_a_common_name_and_all_data(site):
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"amuro", "olmo_eval.py"}
    for room in ("open_instruct", "eval", "analysis", "scripts"):
        tracked = subprocess.run(["git", "ls-files", room], cwd=REPOSITORY, capture_output=True, text=True)
        names = [name for name in tracked.stdout.split() if (REPOSITORY / name).exists()]
        assert [name for name in names if not (site / "amuro" / name).is_file()] == []
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "amuro = amuro:main" in entry_points.read_text()


def test_amuro_lists_every_script_with_its_summary(installed):
    lines = installed("amuro").splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed["finetune"].startswith("Fine-tune one checkpoint on one train set")
    assert {"predict", "eval_pred", "run_lm_eval", "convert_olmo_to_tf", "report", "run_study"} <= listed.keys()
    assert "did you mean finetune" in installed("amuro", "finetun", exit_code=2)


def test_an_installed_script_reads_and_writes_the_folder_where_it_is_started(installed, tmp_path):
    message = f"{tmp_path / 'data'}: no formatted data; make it with `amuro format_generalization`"
    assert message in installed("amuro", "check_data", exit_code=2)
    assert "--num_train_epochs" in installed("amuro", "finetune", "--help")
    assert "arc_easy" in installed("olmo_eval.run_lm_eval", "--list_tasks")


def test_an_empty_base_dir_is_the_folder_where_it_is_started(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", "")
    assert f"no prediction file (*.jsonl) in {tmp_path / 'output'}" in installed("amuro", "eval_pred", exit_code=2)


def test_modules_of_the_folder_where_it_is_started_are_not_imported(installed, site, tmp_path, monkeypatch):
    for name in ("eval", "open_instruct", "metrics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    # As in processes that amuro started.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (site / "amuro", site / "amuro" / "eval", site))))
    assert "no prediction file" in installed("amuro", "eval_pred", exit_code=2)


def test_help_shows_commands_as_they_are_typed(installed):
    shown = installed("amuro", "eval_pred", "--help")
    assert shown.startswith("usage: amuro eval_pred ")
    assert "    amuro eval_pred" in shown
    assert "python eval/" not in shown


@pytest.mark.olmo
def test_a_study_is_planned_outside_the_repository(installed, site, tmp_path):
    folder = Path(installed("amuro", "--folder").strip())
    assert folder == site / "amuro"
    output = installed("amuro", "run_study", str(folder / "scripts" / "studies" / "tiny.yaml"), "--dry_run")
    assert "jobs left" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.olmo
@pytest.mark.slow
def test_a_study_runs_to_its_end_outside_the_repository(installed, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(SMALL))
    assert str(tmp_path / "results" / "toy" / "report.html") in installed("amuro", "run_study", "toy.yaml")
