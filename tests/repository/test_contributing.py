"""The examples of CONTRIBUTING.md do what they say; that of a task is in tests/tasks/test_adding_a_task.py."""

import re
import textwrap
from typing import Any

from simulated_study import STUDY, write_study

from analysis import produce_tables
from analysis.figures import grids
from analysis.tables.frames import read_tables
from eval.metrics import item_metrics
from open_instruct.checkpoints.families import family_named
from open_instruct.checkpoints.family import Revision
from open_instruct.common import paths
from open_instruct.common.paths import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def function(name: str, module: Any) -> Any:
    """A function of an indented example, defined in the module that it is to be added to."""
    found = re.search(rf"^( +)def {name}\(.*?(?=\n\n|\n(?!\1))", TEXT, re.DOTALL | re.MULTILINE)
    assert found, name
    namespace = dict(vars(module))
    exec(textwrap.dedent(found[0]), namespace)
    return namespace[name]


def test_the_family_of_the_example_is_known_with_its_steps(base_dir):
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example
    (base_dir / "families.yaml").write_text(example[1])
    assert family_named("my_llama").parse_revision("step2000") == Revision(2000)


def test_the_metric_of_the_example_is_one_value_an_item():
    is_question = function("is_question", item_metrics)
    assert is_question(["Who came? ", "A cat."]).tolist() == [1.0, 0.0]


def test_the_figure_of_the_example_has_a_panel_for_each_set_with_labels(base_dir):
    study_file = write_study(base_dir, num_items=8, text=STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20]"))
    produce_tables.main(produce_tables.Args(study_file))
    grid = function("label_tasks", grids)(read_tables(paths.results_dir("simulated")))
    assert {panel.title for row in grid for panel in row} == {"rte", "mrpc"}
