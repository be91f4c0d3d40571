"""docs/study.md names every key of a study file."""

import dataclasses

import pytest

from open_instruct.common.paths import REPOSITORY
from open_instruct.study import config

SCHEMA = (
    config.Study,
    config.Recipe,
    config.EvalPlan,
    config.SuitePlan,
    config.PretrainPlan,
    config.Resources,
    config.Costs,
)
PAGE = (REPOSITORY / "docs" / "study.md").read_text()


@pytest.mark.parametrize("kind", SCHEMA, ids=lambda kind: kind.__name__)
def test_the_page_names_every_key(kind):
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    missing = [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in table]
    assert missing == []


def test_the_schema_is_whole():
    """A dataclass that a study file is read into and that is not looked at above would go unnoticed."""
    found = {name for name, kind in vars(config).items() if dataclasses.is_dataclass(kind) and isinstance(kind, type)}
    assert found - {"Checkpoint", "Variant", "Aliases"} == {kind.__name__ for kind in SCHEMA}
