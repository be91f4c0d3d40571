"""docs/study.md describes every key of a study file and every option of run_study.py."""

import dataclasses
import runpy
import typing

import pytest
from toy_study import SCRIPT

from open_instruct.common.paths import REPOSITORY
from open_instruct.study.config import Study

PAGE = (REPOSITORY / "docs" / "study.md").read_text()
TABLES = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))


def schemas(hint: object) -> set[type]:
    """The dataclasses in a type hint, and in the hints of their fields that are keys."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return {hint}.union(*(schemas(hints[name]) for name in keys(hint)))
    return set().union(*(schemas(inner) for inner in typing.get_args(hint)))


def keys(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema) if field.metadata.get("is_key", True)]


@pytest.mark.parametrize("schema", sorted(schemas(Study), key=lambda schema: schema.__name__))
def test_the_page_has_every_key_of_a_study_file(schema):
    assert [name for name in keys(schema) if f"`{name}`" not in TABLES] == []


def test_the_page_has_every_option_of_run_study():
    options = {field.name for field in dataclasses.fields(runpy.run_path(str(SCRIPT))["Args"])} - {"study"}
    assert {name for name in options if f"`--{name}" not in TABLES} == set()
