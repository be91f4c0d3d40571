"""Read the tables that the study's authors released, unchanged.

They identify models and evaluation sets by name only, so this is the one module that parses names. Their grammar:

    base        olmo1b_checkpoint-{step}_original[_hf][_{n}shots], olmo1b_original_hf[_{n}shots] (main),
                checkpoint-{step}[_{n}shots], olmo1b[_hf]_original
    fine-tuned  olmo1b[_hf]_ckpt{step}_{train set}_{e}epoch_{lr}[_{n}shots], olmo1b_hf_main_..., olmo1b_{train set}_...
    ending      _cot_chat (chain of thought, chat) on a model; _instruct, _inputoutput (format) on an evaluation set

`original` and `ckpt` without `hf` are models in OLMo's own format; they are curves of their own.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.columns import IMPROVING, NOT_IMPROVING
from analysis.tables.curve_names import name_series
from analysis.tables.frames import is_empty, number, read_csv
from analysis.tables.intervals import Z_95, binomial
from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest
from open_instruct.study.variants import Variant
from open_instruct.tasks import PROTOCOLS

FAMILY = "olmo1b"
RELEASED_PERFORMANCE = "all_perf_table.csv"
RELEASED = {RELEASED_PERFORMANCE: "unstated", "official_eval_table.csv": "hf", "it_perf_table.csv": "native"}
"""Table -> conversion of a bare `checkpoint-{step}` in it, judged by the table's other rows."""
MODEL_ID = re.compile(
    r"""
    (?:olmo1b_)?
    (?:(?P<base_step>checkpoint-\d+)(?P<original>_original)?|(?P<base_main>original|hf_original)
      |(?:(?P<tuned_hf>hf)_)?(?:(?P<tuned_step>ckpt\d+|main)_)?
       (?P<train_set>[a-z]+)_(?P<epochs>\d+)epoch_(?P<lr>\de-\d+))
    (?P<base_hf>_hf)?(?P<chat>_cot_chat)?(?:_(?P<shots>\d+)shots)?
    """,
    re.VERBOSE,
)
EVAL_SET = re.compile(r"(?P<eval_set>.+?)(?:_(?P<format>instruct|inputoutput))?")


@dataclass(frozen=True)
class Fault:
    """Why no score on an evaluation set says anything about the model, whatever the score."""

    kind: str
    why: str


GOLD_IN_PROMPT = Fault(
    "gold in prompt",
    "the items were written as chats, and the whole chat was the prompt: its last turn is the gold label",
)
UNKNOWN_SHOTS = Fault(
    "unknown number of shots",
    "neither the model's name nor the table states the number of exemplars, and the authors' scripts use several",
)


@dataclass(frozen=True)
class Dataset:
    kind: str
    role: str
    metric: str
    group: str | None = None
    """Group of tasks in figure 3: improving with pre-training or not."""
    size: int | None = None
    """Items of the split, where it is so small that a score may occur twice by chance, or where the standard error was
    not published and is binomial."""
    gold: Mapping[str, int] = field(default_factory=dict)
    """Gold label -> number of items in the split that the authors evaluated, where it is known."""
    fault: Fault | None = None


def generation(role: str, group: str | None = None) -> Dataset:
    return Dataset("generation", role, "rouge_l", group)


def labels(role: str, group: str | None = None, **gold: int) -> Dataset:
    return Dataset("labels", role, "accuracy", group, gold=gold)


def llmbar(size: int) -> Dataset:
    return Dataset("labels", "other", "accuracy", size=size, fault=GOLD_IN_PROMPT)


def suite(size: int | None = None, metric: str = "acc", fault: Fault | None = None) -> Dataset:
    return Dataset("suite", "other", metric, size=size, fault=fault)


def ranked(group: str | None, size: int, **gold: int) -> Dataset:
    return Dataset("suite", "other", "acc", group, size, gold, UNKNOWN_SHOTS)


EVALUATED = {
    "xsum": generation("in-domain of xsum", NOT_IMPROVING),
    "xlsum": generation("out-of-domain of xsum"),
    "cnn": generation("out-of-domain of xsum"),
    "socialiqa": generation("in-domain of socialiqa", NOT_IMPROVING),
    "sciq": generation("out-of-domain of socialiqa"),
    "tweetqa": generation("out-of-domain of socialiqa"),
    "mnli_matched": labels("in-domain of mnli", NOT_IMPROVING, entailment=3_479, neutral=3_123, contradiction=3_213),
    "mnli_mismatched": labels("in-domain of mnli", entailment=3_463, neutral=3_129, contradiction=3_240),
    "rte": labels("out-of-domain of mnli", entailment=1_249, neutral=1_241),
    # Not documented. Scores are multiples of 1/30,000, and several models score a third.
    "gpt3nli": labels("out-of-domain of mnli", entailment=10_000, neutral=10_000, contradiction=10_000),
    "paws": labels("in-domain of paws", NOT_IMPROVING, no=4_464, yes=3_536),
    "qqp": labels("out-of-domain of paws"),
    "stsb": labels("out-of-domain of paws"),
    "llmbar_Natural": llmbar(100),
    "llmbar_Adversarial_Manual": llmbar(46),
    "llmbar_Adversarial_Neighbor": llmbar(134),
    "llmbar_Adversarial_GPTOut": llmbar(47),
    "llmbar_Adversarial_GPTInst": llmbar(92),
}
SUITES = {
    "arc_easy": ranked(IMPROVING, 570),
    "arc_challenge": ranked(IMPROVING, 299),
    "hellaswag": ranked(IMPROVING, 10_042),
    "openbookqa": ranked(IMPROVING, 500),
    "sciq": ranked(IMPROVING, 1_000),
    "boolq": ranked(NOT_IMPROVING, 3_270, no=1_237, yes=2_033),
    "qqp": ranked(None, 40_430, no=25_545, yes=14_885),
    "rte": ranked(None, 277, true=146, false=131),
    "mmlu": suite(fault=UNKNOWN_SHOTS),
    "gsm": suite(200),
    "truthfulqa": suite(metric="truthful"),
    "toxigen": suite(metric="toxicity"),
    "alpaca": suite(metric="win_rate"),
}


def read_released(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Rows of performance (kind `suite` among them), and the tables they came from, by name.

    Raises UserError, with every problem, where a table is missing or a name does not follow the grammar.
    """
    performance = folder / RELEASED_PERFORMANCE
    if not performance.is_file():
        raise UserError(f"{performance}: no such table; --released expects the folder of the authors' released tables")
    files = {name: folder / name for name in RELEASED if (folder / name).is_file()}
    for name in [name for name, path in files.items() if is_own(path)]:
        print(f"not read: {files.pop(name)}, which is a table of this project and not of the authors'")
    if RELEASED_PERFORMANCE not in files:
        raise UserError(
            f"{performance} is a table of this project; expected the folder of the authors' released tables"
        )
    problems: list[str] = []
    rows = []
    for name, path in files.items():
        known = EVALUATED if name == RELEASED_PERFORMANCE else SUITES
        rows += name_series(list(rows_of(path, known, RELEASED[name], problems)))
    if problems:
        shown = "; ".join(problems[:10])
        raise UserError(f"{len(problems)} rows are not of the released tables' grammar: {shown}")
    return require_one_each(rows), files


def is_own(path: Path) -> bool:
    """Whether a table has this project's columns rather than the authors'."""
    return "series" in read_csv(path, nrows=0).columns


def rows_of(
    path: Path, known: Mapping[str, Dataset], conversion_of_bare: str, problems: list[str]
) -> Iterator[dict[str, Any]]:
    frame = read_csv(path)
    absent = [name for name in ("model_id", "eval dataset", "Performance") if name not in frame.columns]
    if absent:
        raise UserError(f"{path}: found columns {', '.join(frame.columns)}; expected {', '.join(absent)} too")
    for line, row in enumerate(frame.to_dict("records"), start=2):
        source = f"{path.name}:{line}"
        model, dataset = MODEL_ID.fullmatch(str(row["model_id"])), EVAL_SET.fullmatch(str(row["eval dataset"]))
        score, error = (number_in(row.get(name)) for name in ("Performance", "std"))
        is_no_error = error is None and not is_empty(row.get("std"))
        if model is None or dataset is None or score is None or is_no_error:
            found = " ± ".join(str(row[name]) for name in ("Performance", "std") if name in row)
            problems.append(f"{source}: {row['model_id']!r} on {row['eval dataset']!r}: {found}")
        elif (eval_set := dataset["eval_set"]) not in known:
            problems.append(f"{source}: unknown evaluation set {eval_set} ({nearest(eval_set, known)})")
        else:
            task_format = "cot_chat" if model["chat"] else dataset["format"] or "default"
            about = {"eval_set": eval_set, "format": task_format, "source": source}
            about |= {"eval dataset": paths.formatted_name(eval_set, task_format)}
            values = scored(score, error, known[eval_set])
            yield {**identity_of(model, conversion_of_bare), **about, **values}


def number_in(cell: Any) -> float | None:
    """The number in a cell, None where it is empty or holds none."""
    try:
        return number(cell)
    except ValueError:
        return None


def identity_of(model: re.Match[str], conversion_of_bare: str) -> dict[str, Any]:
    step_name = model["base_step"] or model["tuned_step"] or "main"
    digits = step_name.removeprefix("checkpoint-").removeprefix("ckpt")
    checkpoint = Checkpoint(FAMILY, int(digits) if digits.isdigit() else None)
    is_hf = bool(model["tuned_hf"] or model["base_hf"] or model["base_main"] == "hf_original")
    is_bare = bool(model["base_step"]) and not model["original"]
    epochs, lr = int(model["epochs"]) if model["epochs"] else None, float(model["lr"]) if model["lr"] else None
    return Variant(checkpoint, model["train_set"], epochs, lr).identity() | {
        "model_id": model.string,
        "seed": None,
        "conversion": conversion_of_bare if is_bare else "hf" if is_hf else "native",
        "shots": int(model["shots"] or 0),
        "protocol": "paper",
    }


def scored(value: float, published_error: Any, dataset: Dataset) -> dict[str, Any]:
    """The score with its error: as published; else binomial if the score is a whole number of items; else none."""
    error = math.nan if published_error is None or pd.isna(published_error) else float(published_error)
    size, interval = dataset.size, {"std": error, "ci_low": value - Z_95 * error, "ci_high": value + Z_95 * error}
    if math.isnan(error) and size and abs(value * size - round(value * size)) < 1e-6:
        interval = binomial(value, size)
    about = {"metric": dataset.metric, "kind": dataset.kind, "role": dataset.role, "group": dataset.group}
    return {"Performance": value, "n": size, **interval, **about}


def is_published(source: str | None) -> bool:
    """Whether a row with this source came from the released tables."""
    return source is not None and source.partition(":")[0] in RELEASED


def dataset_of(row: Mapping[str, Any]) -> Dataset:
    """What is declared of the evaluation set of a published row."""
    return (SUITES if row["kind"] == "suite" else EVALUATED)[row["eval_set"]]


def fault_of(row: Mapping[str, Any]) -> Fault | None:
    """What is declared of a published row's set; of a row of one's own, that its prompts hold the gold as there."""
    if is_published(row.get("source")):
        return dataset_of(row).fault
    protocol = PROTOCOLS.get(row.get("protocol") or "")
    return GOLD_IN_PROMPT if protocol and row["eval_set"] in protocol.gold_in_prompt else None


def require_one_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows.  Raises UserError where two have the same place on the same curve."""
    seen: dict[tuple[Any, ...], str] = {}
    problems = []
    for row in rows:
        place = tuple(row[key] for key in ("series", "checkpoint", "setting", "format", "metric", "kind"))
        if place in seen:
            problems.append(f"{row['source']} and {seen[place]} are both {' '.join(map(str, place))}")
        seen[place] = row["source"]
    if problems:
        raise UserError("; ".join(problems))
    return rows
