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
    """The dataclasses in a type hint, and in the hints of their fields."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return {hint}.union(*(schemas(inner) for inner in typing.get_type_hints(hint).values()))
    return set().union(*(schemas(inner) for inner in typing.get_args(hint)))


@pytest.mark.parametrize("schema", sorted(schemas(Study), key=lambda schema: schema.__name__))
def test_the_page_has_every_key_of_a_study_file(schema):
    assert [field.name for field in dataclasses.fields(schema) if f"`{field.name}`" not in TABLES] == []


def test_the_page_has_every_option_of_run_study():
    options = {field.name for field in dataclasses.fields(runpy.run_path(str(SCRIPT))["Args"])} - {"study"}
    assert {name for name in options if f"`--{name}" not in TABLES} == set()
