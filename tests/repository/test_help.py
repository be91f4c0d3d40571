"""--help of every script explains each option, and states the default that the code uses."""

import dataclasses
import re

import pytest
from all_scripts import SCRIPTS, script_named

from open_instruct.common.cli import parse

FRAME = re.compile(r"[│╭╮╰╯─]+|-{20,}")
DEFAULT = re.compile(r"\((?:default: ([^()]*)|required|optional)\)$")


def option_texts(script: str, capsys) -> dict[str, tuple[str, str | None]]:
    """Option -> its words, and its default as --help states it."""
    with pytest.raises(SystemExit):
        parse(script_named(script).Args, ["--help"])
    printed = FRAME.sub("", capsys.readouterr().out)
    found = {}
    for part in re.split(r"\n\s*(?=--\w|-h, )", printed[printed.index("-h, --help") :]):
        header, *text = re.split(r" {2,}|\n", part.strip(), maxsplit=1)
        words = " ".join("".join(text).split("\n\n")[0].split())
        stated = DEFAULT.search(words)
        # An option may also be named in the text of another, at the beginning of a line.
        found = {name: (DEFAULT.sub("", words), stated and stated[1]) for name in re.findall(r"--\w+", header)} | found
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_is_explained_and_its_default_is_that_of_the_code(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    texts = option_texts(script, capsys)
    for field in dataclasses.fields(script_named(script).Args):
        if f"--{field.name}" not in texts:  # an argument without a name
            assert field.default is dataclasses.MISSING
            continue
        words, stated = texts[f"--{field.name}"]
        assert re.search("[A-Za-z]{2}", words), f"--{field.name} has no help text"
        if field.default is not dataclasses.MISSING and field.default is not None and field.default != ():
            values = field.default if isinstance(field.default, tuple) else (field.default,)
            assert stated == " ".join(map(str, values)), field.name


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_in_help_keep_their_lines(script):
    # A single backslash at the end of a line joins it to the next one.
    assert max(map(len, script_named(script).__doc__.splitlines())) <= 120
