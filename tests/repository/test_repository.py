"""The house keeps its own rules: pins agree, imports point one way, files stay small, shell scripts are clean."""

import ast
import re
import shutil
import subprocess
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from open_instruct.common.paths import REPOSITORY

LEVELS = {"open_instruct": 0, "eval": 1, "olmo_eval": 1, "analysis": 2}
ROOMS = {
    "open_instruct": ("common", "tasks", "data", "checkpoints", "study", "olmo_hf", "training"),
    "analysis": ("tables", "inference", "figures", "page"),
}
"""Package -> its rooms: each may import from those before it, and none from the package's scripts."""
SOURCES = [
    path
    for folder in ("open_instruct", "eval", "analysis", "scripts", "benchmarks", "tests")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".yaml", ".template")
]


def imports_of_modules() -> dict[str, set[str]]:
    """Module -> the project's modules that it imports, anywhere in its code."""
    paths = {module_name(p): p for p in SOURCES if p.suffix == ".py" and module_name(p).split(".")[0] in LEVELS}
    found: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            elif isinstance(node, ast.Import):
                wanted = [(alias.name, "") for alias in node.names]
            else:
                continue
            found[name] |= {module if module in paths else parent for module, parent in wanted} & set(paths)
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__").replace("eval.olmo_eval", "olmo_eval")


def room_of(module: str) -> tuple[str, str]:
    """The package of a module and its room, or the script's name."""
    package, *rest = module.split(".")
    return package, rest[0] if rest else ""


IMPORTS = imports_of_modules()


def test_the_conda_environment_installs_the_locked_packages():
    environment = yaml.safe_load((REPOSITORY / "environments_eval.yml").read_text())
    assert environment["name"] == "eval-pipeline"
    assert "python=3.11" in environment["dependencies"]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    # It names the file itself, so the two cannot differ; a pin of its own could.
    assert pip == ["-c constraints.txt", "-e .[olmo]"]


def test_no_file_is_over_350_lines():
    assert len(SOURCES) > 30
    too_long = {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350}
    assert too_long == {}


def test_imports_point_one_way():
    for module, imported in IMPORTS.items():
        for name in imported:
            assert LEVELS[name.split(".")[0]] <= LEVELS[module.split(".")[0]], (
                f"{module} imports {name}: only analysis -> eval -> open_instruct"
            )


def test_no_modules_import_each_other():
    # prepare() raises CycleError, which names the modules of the circle.
    TopologicalSorter(IMPORTS).prepare()


def test_rooms_import_only_rooms_before_them():
    for module, imported in IMPORTS.items():
        package, room = room_of(module)
        rooms = ROOMS.get(package, ())
        for name in imported:
            if room in rooms and room_of(name)[0] == package:
                assert room_of(name)[1] in rooms[: rooms.index(room) + 1], f"{module} imports {name}"


def test_only_scripts_lie_at_the_top_of_a_package():
    for package in ("open_instruct", "eval", "analysis"):
        modules = [path for path in (REPOSITORY / package).glob("*.py") if path.name != "__init__.py"]
        assert modules
        assert [path.name for path in modules if 'if __name__ == "__main__":' not in path.read_text()] == []


def test_no_test_imports_a_test():
    for path in (REPOSITORY / "tests").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) test_", path.read_text(), re.MULTILINE), path


def test_no_two_test_files_have_one_name_which_pytest_would_refuse_to_collect():
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_only_paths_reads_the_environment_folders():
    for path in SOURCES:
        if path.suffix == ".py" and path.name != "paths.py" and "tests" not in path.parts:
            assert not re.search(r"environ(\.get\(|\[)\W*(base_dir|data_dir)", path.read_text()), path


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck():
    scripts = [str(p) for p in SOURCES if p.suffix == ".sh"]
    subprocess.run(["shellcheck", *scripts, str(REPOSITORY / ".ci" / "run")], check=True)
