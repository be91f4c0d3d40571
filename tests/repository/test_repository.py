"""The house keeps its own rules: pins agree, imports point one way, files stay small, shell scripts are clean."""

import ast
import re
import shutil
import subprocess
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement

from open_instruct.common.paths import REPOSITORY

PACKAGES = {"open_instruct": 0, "eval": 1, "olmo_eval": 1, "analysis": 2}
SOURCES = [
    path
    for folder in ("open_instruct", "eval", "analysis", "scripts", "benchmarks", "tests")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".yaml", ".template")
]


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {r.name: str(r.specifier) for r in requirements}


def test_requirements_are_exact_and_installed():
    for name, specifier in pins().items():
        assert specifier.startswith("=="), f"{name}{specifier} is no exact pin"
        assert version(name).split("+")[0] == specifier.removeprefix("==")


def test_the_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "environments_eval.yml").read_text())
    assert environment["name"] == "eval-pipeline"
    assert "python=3.11" in environment["dependencies"]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    # It names the file itself, so the two cannot differ; a pin of its own could.
    assert pip == ["-r requirements.txt", "-e ."]


def test_no_file_is_over_350_lines():
    assert len(SOURCES) > 30
    too_long = {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350}
    assert too_long == {}


def test_imports_point_one_way():
    for path in SOURCES:
        package = path.relative_to(REPOSITORY).parts[0]
        if path.suffix != ".py" or package not in PACKAGES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                level = PACKAGES.get(name.split(".")[0], 0)
                assert level <= PACKAGES[package], f"{path} imports {name}: only analysis -> eval -> open_instruct"


def test_only_paths_reads_the_environment_folders():
    for path in SOURCES:
        if path.suffix == ".py" and path.name != "paths.py" and "tests" not in path.parts:
            assert not re.search(r"environ(\.get\(|\[)\W*(base_dir|data_dir)", path.read_text()), path


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck():
    scripts = [str(p) for p in SOURCES if p.suffix == ".sh"]
    subprocess.run(["shellcheck", *scripts, str(REPOSITORY / ".ci" / "run")], check=True)
