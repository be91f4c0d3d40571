"""MMLU: each of its 57 subjects is a task, and so are four groups of them and all together.

The choices stand in the question, its answer is a letter; exemplars are the first rows of the subject's dev split,
which has five.
"""

from dataclasses import replace

from olmo_eval.ranked_task import Item, RankedTask, Row, choices

LETTERS = "ABCD"
GROUPS = {
    "stem": """
        abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics
        college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics
        high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics
        high_school_physics high_school_statistics machine_learning""",
    "humanities": """
        formal_logic high_school_european_history high_school_us_history high_school_world_history international_law
        jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law
        world_religions""",
    "social_sciences": """
        econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
        high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations
        security_studies sociology us_foreign_policy""",
    "other": """
        anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology""",
}
NUM_ROWS = {"stem": 321, "humanities": 518, "social_sciences": 337, "other": 355}


def question(row: Row) -> Item:
    listed = "".join(f" {letter}. {text}\n" for letter, text in zip(LETTERS, row["choices"], strict=True))
    return choices(f"{row['question'].strip()}\n{listed}Answer:", LETTERS, row["answer"])


def preface(row: Row) -> str:
    subject = row["subject"].replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def tasks() -> list[RankedTask]:
    subjects = {group: tuple(names.split()) for group, names in GROUPS.items()}
    everything = RankedTask(
        "mmlu",
        "hf_datasets/hails/mmlu_no_train",
        num_rows=sum(NUM_ROWS.values()),
        item=question,
        primary="raw",
        unconditioned=None,
        id_fields=("subject",),
        subjects=tuple(name for names in subjects.values() for name in names),
        exemplar_split="dev",
        preface=preface,
    )
    groups = [replace(everything, name=f"mmlu_{g}", num_rows=NUM_ROWS[g], subjects=subjects[g]) for g in GROUPS]
    each = [replace(everything, name=f"mmlu_{s}", num_rows=None, subjects=(s,)) for s in everything.subjects]
    return [everything, *groups, *each]
