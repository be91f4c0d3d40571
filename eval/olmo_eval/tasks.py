"""Ranked-classification tasks as declarations.

To add a task: a function from a row to an Item, and a RankedTask in DECLARED. A context never ends in a space, every
continuation begins with one. `{task}:olmo` is the task as OLMo evaluates it during pre-training (in_loop.py).
`{task}:{variant}` (arc_easy:rc_5shot) names a request file of the OLMES standard in the ai2-olmo package, with complete
contexts and continuations.
"""

import re

from olmo_eval import in_loop, mmlu
from olmo_eval.ranked_task import Item, RankedTask, Row, multiple_choice, precomputed, rows_of
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.json_files import read_json
from open_instruct.data.olmo_data import package_folder
from open_instruct.tasks.declarations import Split
from open_instruct.tasks.hub import (
    ARC,
    COMMONSENSE_QA,
    GLUE,
    HELLASWAG,
    OPENBOOKQA,
    PIQA,
    SCIQ,
    SOCIAL_I_QA,
    SUPER_GLUE,
    WINOGRANDE,
)


def with_keys(context: str, row: Row) -> Item:
    """An item whose choices have keys (A… or 1…)."""
    return multiple_choice(context, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def arc(row: Row) -> Item:
    return with_keys(f"Question: {row['question']}\nAnswer:", row)


def openbookqa(row: Row) -> Item:
    return with_keys(row["question_stem"], row)


def boolq(row: Row) -> Item:
    if "query" in row:  # a document of a request file, in which yes is choice 0
        return multiple_choice(row["query"], ("no", "yes"), 1 - row["gold"])
    return multiple_choice(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ("no", "yes"), row["label"])


def hellaswag(row: Row) -> Item:
    context = without_markup(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return multiple_choice(context, [without_markup(ending) for ending in row["endings"]], int(row["label"]))


def without_markup(text: str) -> str:
    """Remove HellaSwag's WikiHow markup. Double spaces are replaced in one pass: an ending may begin with a space."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def sciq(row: Row) -> Item:
    context = f"{row['support']}\nQuestion: {row['question']}\nAnswer:".strip()
    return multiple_choice(context, [row[f"distractor{n}"] for n in (1, 2, 3)] + [row["correct_answer"]], 3)


def piqa(row: Row) -> Item:
    return multiple_choice(f"Question: {row['goal']}\nAnswer:", (row["sol1"], row["sol2"]), row["label"])


def winogrande(row: Row) -> Item:
    before, after = row["sentence"].split("_")
    return Item([before + row["option1"], before + row["option2"]], [f" {after.strip()}"] * 2, int(row["answer"]) - 1)


def social_iqa(row: Row) -> Item:
    context = f"Question: {row['context']} {row['question']}\nAnswer:"
    return multiple_choice(context, [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1)


def copa(row: Row) -> Item:
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    texts = [text[0].lower() + text[1:] for text in (row["choice1"], row["choice2"])]
    return multiple_choice(f"{row['premise'].strip()[:-1]} {connector}", texts, row["label"])


def rte(row: Row) -> Item:
    context = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
    return multiple_choice(context, ("True", "False"), row["label"])


def mrpc(row: Row) -> Item:
    context = f"Sentence 1: {detokenised(row['sentence1'])}\nSentence 2: {detokenised(row['sentence2'])}\n"
    question = "Question: Do both sentences mean the same thing?\nAnswer:"
    return multiple_choice(context + question, ("no", "yes"), row["label"])


def sst2(row: Row) -> Item:
    context = f"{detokenised(row['sentence'])}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return multiple_choice(context, ("negative", "positive"), row["label"])


def detokenised(text: str) -> str:
    """Remove the spaces that GLUE's tokenisation put around punctuation; as in the reference, not all of them."""
    for spaced, plain in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(spaced, plain)
    return re.sub(r" (['.,])", r"\1", text)


DECLARED = (
    RankedTask("arc_easy", rows_of(ARC, "ARC-Easy/{split}-*", "ai2_arc/ARC-Easy", 570), arc, "uncond"),
    RankedTask("arc_challenge", rows_of(ARC, "ARC-Challenge/{split}-*", "ai2_arc/ARC-Challenge", 299), arc, "uncond"),
    # olmo_data's boolq dataset lacks the titles that the super_glue passages begin with; this request file has them.
    RankedTask(
        "boolq",
        SUPER_GLUE(files="boolq/{split}-*.parquet", olmo_data="oe_eval_tasks/boolq/rc_0shot", num_rows=3270),
        boolq,
        "raw",
        None,
        ("idx",),
    ),
    RankedTask(
        "hellaswag",
        rows_of(HELLASWAG, "data/{split}-*", "hellaswag/none", 10042),
        hellaswag,
        "per_token",
        id_fields=("source_id", "ind"),
    ),
    RankedTask("openbookqa", rows_of(OPENBOOKQA, "main/{split}-*", "openbookqa/main", 500), openbookqa, "uncond"),
    RankedTask("sciq", rows_of(SCIQ, "data/{split}-*", "sciq/none", 1000), sciq, "raw"),
    RankedTask("piqa", rows_of(PIQA, "plain_text/{split}/*", "piqa/plain_text", 1838), piqa, "per_token"),
    RankedTask(
        "winogrande",
        rows_of(WINOGRANDE, "winogrande_xl/{split}-*", "winogrande/winogrande_xl", 1267),
        winogrande,
        "per_token",
        None,
    ),
    RankedTask("csqa", rows_of(COMMONSENSE_QA, "data/{split}-*", "tau/commonsense_qa/none", 1221), arc, "uncond"),
    RankedTask("social_iqa", rows_of(SOCIAL_I_QA, "default/{split}/*", "social_i_qa/none", 1954), social_iqa, "uncond"),
    RankedTask("copa", rows_of(SUPER_GLUE, "copa/{split}-*", "super_glue/copa", 100), copa, "raw", None, ("idx",)),
    RankedTask("rte", rows_of(GLUE, "rte/{split}-*", "glue/rte", 277), rte, "raw", None, ("idx",)),
    RankedTask("mrpc", rows_of(GLUE, "mrpc/{split}-*", "glue/mrpc", 408), mrpc, "raw", None, ("idx",)),
    RankedTask("sst2", rows_of(GLUE, "sst2/{split}-*", "glue/sst2", 872), sst2, "raw", None, ("idx",)),
    *mmlu.tasks(),
)
PLAIN = {task.name: task for task in DECLARED}
TASKS = PLAIN | {task.name: task for task in in_loop.variants(PLAIN)}
DEFAULT_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "sciq", "piqa", "winogrande")
NAME_OF = {"socialiqa": "social_iqa"}
"""Folder of request files -> name of their task, where they differ."""


def task_named(name: str) -> RankedTask:
    """Look up a task.  Raises UserError, with the nearest known names, for an unknown one."""
    if name in TASKS:
        return TASKS[name]
    folder = request_folders().get(name)
    if folder is None:
        raise UserError(f"unknown task {name} ({nearest(name, similar_names(name))})")
    description = read_json(package_folder(folder) / "config.json")
    config = description["task_config"]
    return RankedTask(
        name,
        Split(num_rows=description["num_instances"], olmo_data=folder),
        item=precomputed,
        primary=config["primary_metric"].removeprefix("acc_"),
        unconditioned="Answer:" if config["metric_kwargs"].get("uncond_docid_offset") else None,
        id_fields=("native_id",),
    )


def request_folders() -> dict[str, str]:
    """`{task}:{variant}` of every request file, train splits excluded -> its folder in the ai2-olmo package."""
    folders = {}
    for path in sorted(package_folder("oe_eval_tasks").glob("*/*/config.json")):
        task, variant = path.parts[-3:-1]
        if not variant.startswith("train_"):
            folders[f"{NAME_OF.get(task, task)}:{variant}"] = f"oe_eval_tasks/{task}/{variant}"
    return folders


def similar_names(name: str) -> list[str]:
    """Candidates for the name that was meant by an unknown `name`."""
    if ":" in name:
        return [task for task in (*TASKS, *request_folders()) if ":" in task]
    return [task for task in PLAIN if name.startswith("mmlu") or not task.startswith("mmlu_")]
