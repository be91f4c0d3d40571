"""Commands in the README, CONTRIBUTING and docs/ have valid options, and the files they name exist."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import amuro
from open_instruct.common.cli import parse
from open_instruct.common.original_options import from_original
from open_instruct.common.paths import RELEASED_RESULTS, REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# A line of a code block that runs a Python script of this repository.
COMMAND = re.compile(r"^ *(?:\w+=\S+ )*(?:python (?:-m )?|(?:accelerate launch .*-m )?(?=amuro \w))(\S+)(.*)$")


def commands():
    for page in PAGES:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            match = COMMAND.match(line)
            if match and match[1] == "amuro":
                name, _, arguments = match[2].strip().partition(" ")
                script = str(amuro.scripts()[name].relative_to(REPOSITORY))
                yield pytest.param(script, arguments.split("#")[0], id=f"{page.name}: {line.strip()[:60]}")
            elif match and (match[1].endswith(".py") or match[1].startswith("olmo_eval.")):
                yield pytest.param(match[1], match[2].split("#")[0], id=f"{page.name}: {line.strip()[:60]}")


@pytest.mark.parametrize(("script", "arguments"), commands())
def test_commands_in_the_docs_have_valid_options(script, arguments, monkeypatch):
    name = f"eval/{script.replace('.', '/')}.py" if script.startswith("olmo_eval.") else script
    spec = importlib.util.spec_from_file_location("documented_script", REPOSITORY / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look up their module
    spec.loader.exec_module(module)
    parse(module.Args, from_original(Path(name).stem, shlex.split(arguments.replace("…", ""))))


def test_most_pages_have_commands():
    pages = {str(parameter.id).split(":")[0] for parameter in commands()}
    assert len(pages) > len(PAGES) / 2


def test_shell_scripts_and_pages_named_in_the_docs_exist():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"(?:bash|sbatch) (\S+\.sh)", text) + re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (REPOSITORY / name).exists() or (page.parent / name).exists(), f"{page.name} names {name}"


def test_shell_scripts_are_valid_bash():
    for script in sorted((REPOSITORY / "scripts").rglob("*.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_readme_quotes_the_released_findings():
    findings = json.loads((RELEASED_RESULTS / "findings.json").read_text())["findings"]
    # Cells of the table, with a line break between two sentences.
    cells = re.split(r" \| |<br>| \|$", PAGES[0].read_text(), flags=re.MULTILINE)
    quoted = [cell for cell in cells if re.match(r"(Supported|Contradicted|Undecided|Not testable)\b", cell)]
    assert len(quoted) >= 4
    assert set(quoted) <= {finding["sentence"] for finding in findings}
