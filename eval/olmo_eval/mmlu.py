"""MMLU: a task for each of its 57 subjects, for each of four groups of subjects, and for all together.

The choices are listed in the context, and the continuation is a letter. Exemplars are the first rows of the subject's
dev split, which has five.
"""

from collections.abc import Mapping

from olmo_eval.ranked_task import Item, RankedTask, Row, multiple_choice, rows_of
from open_instruct.tasks.hub import MMLU

LETTERS = "ABCD"
GROUPS = {
    "stem": """
        abstract_algebra=11 astronomy=16 college_biology=16 college_chemistry=8 college_computer_science=11
        college_mathematics=11 college_physics=11 computer_security=11 conceptual_physics=26
        electrical_engineering=16 elementary_mathematics=41 high_school_biology=32 high_school_chemistry=22
        high_school_computer_science=9 high_school_mathematics=29 high_school_physics=17
        high_school_statistics=23 machine_learning=11""",
    "humanities": """
        formal_logic=14 high_school_european_history=18 high_school_us_history=22
        high_school_world_history=26 international_law=13 jurisprudence=11 logical_fallacies=18
        moral_disputes=38 moral_scenarios=100 philosophy=34 prehistory=35 professional_law=170
        world_religions=19""",
    "social_sciences": """
        econometrics=12 high_school_geography=22 high_school_government_and_politics=21
        high_school_macroeconomics=43 high_school_microeconomics=26 high_school_psychology=60
        human_sexuality=12 professional_psychology=69 public_relations=12 security_studies=27 sociology=22
        us_foreign_policy=11""",
    "other": """
        anatomy=14 business_ethics=11 clinical_knowledge=29 college_medicine=22 global_facts=10
        human_aging=23 management=11 marketing=25 medical_genetics=11 miscellaneous=86 nutrition=33
        professional_accounting=31 professional_medicine=31 virology=18""",
}
"""Group -> its subjects, each with its number of validation rows."""


def question(row: Row) -> Item:
    listed = "".join(f" {letter}. {text}\n" for letter, text in zip(LETTERS, row["choices"], strict=True))
    return multiple_choice(f"{row['question'].strip()}\n{listed}Answer:", LETTERS, row["answer"])


def description(row: Row) -> str:
    subject = row["subject"].replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def tasks() -> list[RankedTask]:
    groups = {group: subjects_of(text) for group, text in GROUPS.items()}
    everything = {name: count for subjects in groups.values() for name, count in subjects.items()}
    single = {name: {name: count} for name, count in everything.items()}
    return [
        task("mmlu", everything),
        *(task(f"mmlu_{name}", num_rows) for name, num_rows in (groups | single).items()),
    ]


def subjects_of(text: str) -> dict[str, int]:
    return {name: int(count) for name, count in (entry.split("=") for entry in text.split())}


def task(name: str, num_rows: Mapping[str, int]) -> RankedTask:
    """The task of the subjects in `num_rows`, subject -> number of validation rows."""
    return RankedTask(
        name,
        rows_of(MMLU, "{subject}/{split}-*", "hails/mmlu_no_train/{subject}", sum(num_rows.values())),
        item=question,
        primary="raw",
        unconditioned=None,
        id_fields=("subject",),
        subjects=tuple(num_rows),
        exemplar_split="dev",
        description=description,
    )
