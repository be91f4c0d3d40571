"""What a ranked-classification task is: where its rows lie, what a row asks, which score decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_instruct.tasks.declarations import Split

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
    rows: Split
    """Where its rows lie, with `{split}` and `{subject}` for what is asked; `num_rows` are those of validation."""
    item: Callable[[Row], Item]
    primary: str
    """Which score decides `acc`: raw, per_token, per_char or uncond."""
    unconditioned: str | None = "Answer:"
    """Context of the unconditioned likelihood that `uncond` subtracts (None: the task has no such score)."""
    id_fields: tuple[str, ...] = ("id",)
    """Columns that name a row in the full output, where the row has them."""
    subjects: tuple[str, ...] = ()
    """What `{subject}` stands for, one after the other; a row names its own in the column `subject`."""
    exemplar_split: str | None = None
    """The split whose first rows, of the same subject, are the exemplars (None: drawn by seed from the train split)."""
    preface: Callable[[Row], str] | None = None
    """Text that stands before the exemplars."""
    counts_space: bool = True
    """Whether per_char counts the space that a continuation begins with."""


def choices(context: str, texts: Sequence[str], gold: int) -> Item:
    """One context for all choices."""
    return Item([context] * len(texts), [f" {text}" for text in texts], gold)
