"""Options of the study's original code: what to use here, read from original_options.yaml beside this file.

docs/original_code.md has the same entries as a table; a test compares them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from open_instruct.common.errors import UserError

FILE = Path(__file__).with_suffix(".yaml")


def original_options() -> dict[str, dict[str, dict[str, str]]]:
    """Script -> option of the original -> one of `use`, `no_effect` and `refused` -> text; the file explains them."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def from_original(script: str, arguments: Sequence[str]) -> list[str]:
    """A script's command line, with the original's options replaced by those of this repository.

    script: name of its file, without .py.
    Raises UserError for an option that is refused, with what to use instead.
    """
    entries = original_options().get(script, {})
    replaced: list[str] = []
    for words in by_option(arguments):
        name, equals, value = words[0].partition("=")
        name = "--" + name.removeprefix("--").replace("-", "_")
        values = [value, *words[1:]] if equals else words[1:]
        of_value = next((value for value in values if f"{name} {value}" in entries), None)
        key = name if of_value is None else f"{name} {of_value}"
        values = [value for value in values if value != of_value]
        entry = entries.get(key, {})
        if "refused" in entry:
            raise UserError(f"{key} of the original: {entry['refused']}")
        if "no_effect" in entry:
            print(f"{key} has no effect here: {entry['no_effect']}", file=sys.stderr)
        elif "use" in entry:
            replaced += [*entry["use"].split(), *values]
        else:
            replaced += words
    return replaced


def by_option(arguments: Sequence[str]) -> list[list[str]]:
    """The words of a command line, each option with the values that follow it; values before any are first."""
    groups: list[list[str]] = []
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups
