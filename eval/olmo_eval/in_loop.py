"""`{task}:olmo`: the task as OLMo evaluates it during pre-training (`olmo.eval.downstream` of ai2-olmo).

Most prompts are those of the plain task. The primary score differs, and per_char does not count the space that a
continuation begins with (`len_norm` in ai2-olmo). Unconditioned likelihoods are not used.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from olmo_eval.ranked_task import Item, RankedTask, Row, multiple_choice, rows_of
from open_instruct.tasks.hub import BOOLQ

RAW = ("arc_easy", "boolq", "copa", "sciq", "sst2", "winogrande")
MMLU_GROUPS = ("mmlu_humanities", "mmlu_other", "mmlu_social_sciences", "mmlu_stem")
PER_CHAR = ("arc_challenge", "csqa", "hellaswag", "openbookqa", "piqa", "rte", "social_iqa", *MMLU_GROUPS)
PRIMARY = dict.fromkeys(RAW, "raw") | dict.fromkeys(PER_CHAR, "per_char")


def boolq(row: Row) -> Item:
    context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return multiple_choice(context, ("yes", "no"), 0 if row["answer"] else 1)


def sciq(row: Row) -> Item:
    # Without support the context begins with the line break.
    context = f"{row['support'].strip()}\nQuestion: {row['question']}\nAnswer:"
    return multiple_choice(context, [row[f"distractor{n}"] for n in (1, 2, 3)] + [row["correct_answer"]], 3)


def mmlu(row: Row) -> Item:
    return multiple_choice(f"Question: {row['question'].strip()}\nAnswer:", row["choices"], row["answer"])


OVERRIDES: dict[str, dict[str, Any]] = {
    # The passages have no titles, and yes is the first choice.
    "boolq": {"rows": rows_of(BOOLQ, "data/{split}-*", "boolq/none", 3270), "item": boolq},
    "sciq": {"item": sciq},
} | {name: {"item": mmlu, "description": None} for name in MMLU_GROUPS}
"""Fields that differ from the plain task, besides those that differ for all."""


def variants(tasks: Mapping[str, RankedTask]) -> list[RankedTask]:
    """The in-loop variant of each of `tasks` that has one."""
    common: dict[str, Any] = {"unconditioned": None, "counts_space": False}
    return [
        replace(tasks[name], name=f"{name}:olmo", primary=primary, **common, **OVERRIDES.get(name, {}))
        for name, primary in PRIMARY.items()
    ]
