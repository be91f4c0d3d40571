"""Declarations of train and evaluation sets are consistent."""

import pytest

from open_instruct.common.paths import REPOSITORY
from open_instruct.study.loading import load_study
from open_instruct.tasks import EVAL_SETS, TRAIN_SETS


@pytest.mark.parametrize("eval_set", EVAL_SETS.values(), ids=lambda eval_set: eval_set.name)
def test_fields_labels_and_role_of_an_evaluation_set_agree(eval_set):
    assert set(eval_set.paper_fields) in (set(), set(eval_set.fields))
    assert set(eval_set.parse_order) >= set(eval_set.labels.values())
    assert (eval_set.kind == "labels") == bool(eval_set.labels)
    assert eval_set.role.split(" of ")[-1] in (*TRAIN_SETS, "other", "pre-training")


def test_train_sets_without_a_template_are_chats():
    assert [t.name for t in TRAIN_SETS.values() if t.template is None and not t.chat] == []


@pytest.mark.parametrize("task", [*EVAL_SETS.values(), *TRAIN_SETS.values()], ids=lambda task: task.name)
def test_prompt_templates_end_without_white_space_and_use_declared_fields(task):
    fields = dict.fromkeys(task.fields, "x")
    for prompt in task.template.prompts.values() if task.template else ():
        assert prompt.format(**fields).rstrip() == prompt.format(**fields)


@pytest.mark.parametrize("name", ["paper", "paper_protocol"])
def test_the_papers_studies_use_its_recipes(name):
    recipes = load_study(REPOSITORY / "scripts" / "studies" / f"{name}.yaml").train_sets
    papers = {"xsum": (3, 2e-7), "socialiqa": (3, 2e-6), "mnli": (3, 2e-6), "paws": (3, 2e-6), "tulu": (5, 2e-6)}
    assert {name: (*r.epochs, *r.lr) for name, r in recipes.items()} == papers
