"""Options of the study's original code are renamed, accepted or refused as the table says; docs has the same table."""

import dataclasses
import re
import sys

import pytest
from all_scripts import SCRIPTS, script_named

from open_instruct.common import original_options
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.original_options import from_original
from open_instruct.common.paths import REPOSITORY

ENTRIES = {
    (script, option): entry
    for script, options in original_options.original_options().items()
    for option, entry in options.items()
}
SCRIPT_MODULES = {name.rpartition(".")[2]: name for name in SCRIPTS}


def option_names(script: str) -> set[str]:
    """All options of a script here."""
    fields = dataclasses.fields(script_named(SCRIPT_MODULES[script]).Args)
    return {f"--{name}" for field in fields for name in (field.name, *field.metadata.get("aliases", ()))}


def in_docs(kind: str, text: str) -> str:
    return f"`{text}`" if kind == "use" else {"no_effect": "no effect: ", "refused": "refused: "}[kind] + text


@pytest.mark.parametrize(("script", "option"), ENTRIES)
def test_entries_have_one_meaning(script, option):
    ((kind, text),) = ENTRIES[script, option].items()
    assert kind in ("use", "no_effect", "refused")
    assert text == " ".join(text.split())
    if " " not in option:
        assert option not in option_names(script), "the script has this option"
    if kind == "use":
        assert text.split()[0] in option_names(script)
    for named in re.findall(r"--\w+", text) if kind == "refused" else ():
        assert named in set().union(*map(option_names, SCRIPT_MODULES)), f"no script has {named}"


def test_the_docs_have_the_table():
    page = (REPOSITORY / "docs" / "original_code.md").read_text()
    rows = [
        f"| `{script}` | `{option}` | {in_docs(*next(iter(entry.items())))} |"
        for (script, option), entry in ENTRIES.items()
    ]
    expected = "\n".join(["| script | original | here |", "|---|---|---|", *rows])
    assert expected in page, f"docs/original_code.md needs this table:\n{expected}"


@pytest.fixture
def table(monkeypatch):
    entries = {
        "--old_name": {"use": "--name"},
        "--kind odd": {"use": "--kind even"},
        "--gone": {"refused": "use --name"},
        "--always": {"no_effect": "it is always so"},
    }
    monkeypatch.setattr(original_options, "original_options", lambda: {"script": entries})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--old_name a b --other=c", "--name a b --other=c"),
        ("--old-name=a", "--name a"),
        ("first --kind odd --old_name a", "first --kind even --name a"),
        ("--kind=odd", "--kind even"),
        ("--kind other", "--kind other"),
        ("--kind other odd", "--kind even other"),
        ("--always 3 --x", "--x"),
        ("", ""),
    ],
)
def test_names_and_values_are_replaced(given, expected, table):
    assert from_original("script", given.split()) == expected.split()
    assert from_original("another", given.split()) == given.split()


def test_what_has_no_effect_is_said(table, capsys):
    from_original("script", ["--always"])
    assert capsys.readouterr().err == "--always has no effect here: it is always so\n"


@dataclasses.dataclass(frozen=True)
class Args:
    name: str = "a"


def test_a_script_refuses_with_what_to_use_instead(table, monkeypatch, capsys):
    with pytest.raises(UserError, match="--gone of the original: use --name"):
        from_original("script", ["--gone"])
    monkeypatch.setattr(sys, "argv", ["script.py", "--gone", "1"])
    with pytest.raises(SystemExit, match="2"):
        run(print, Args)
    assert capsys.readouterr().err == "error: --gone of the original: use --name\n"


def test_a_script_takes_the_value_under_its_own_name(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["folder/script.py", "--old_name", "b"])
    run(print, Args)
    assert capsys.readouterr().out == "Args(name='b')\n"
