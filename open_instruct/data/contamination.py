"""Which items of a train or evaluation file occur in text, by the share of their n-grams that are found in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_instruct.common.errors import UserError
from open_instruct.data.ngram_table import NgramTable
from open_instruct.data.source_texts import SIDES, SourceTexts
from open_instruct.data.text_scan import Found
from open_instruct.data.train_records import checked_records
from open_instruct.data.words import normalise_words

FEWEST_ITEMS = 10
"""An n-gram of fewer items is never left out as one that many items share."""
CHECKED, TOO_SHORT, SHARED, EMPTY = "checked", "too short", "shared n-grams only", "no words"
STATUSES = (CHECKED, TOO_SHORT, SHARED, EMPTY)
NO_ROW = 2**62


@dataclass(frozen=True)
class Items:
    """The items of one file and their texts."""

    path: Path
    records: Sequence[Mapping[str, Any]]
    """`dataset` and `id` of each item."""
    texts: Sequence[bytes]
    """Of all items, in the form of `normalise_words`."""
    slots: NDArray[np.int64]
    """(texts,) what each text is of: twice the item's number, for its completion one more."""
    has_template: NDArray[np.bool_]
    """(texts,) whether the words of the set's template may still be in the text."""


def read_items(path: Path, sources: SourceTexts) -> Items:
    """Raises UserError for a file without records, and with file:line for a malformed one."""
    records, texts, slots, has_template = [], list[bytes](), list[int](), list[bool]()
    for number, record in enumerate(checked_records(path, required=("id",))):
        records.append({name: record[name] for name in ("dataset", "id") if name in record})
        for side, of_side in enumerate(sources.of_record(record).values()):
            for fields, is_apart in of_side:
                texts += map(normalise_words, fields)
                slots += [2 * number + side] * len(fields)
                has_template += [not is_apart] * len(fields)
    if not records:
        raise UserError(f"{path}: no records; expected a train or evaluation file")
    return Items(path, records, texts, np.array(slots, np.int64), np.array(has_template, bool))


def overlaps(
    items: Items, first_text: int, table: NgramTable, found: Found, files: Sequence[str], shared_by: float
) -> Iterator[dict[str, Any]]:
    """A record of each item: for its prompt and its completion, the n-grams that occur in the text.

    first_text: number in the table of the first text of these items; files: names; shared_by: n-grams of more than this
    share of the items are left out of texts that may have words of a template.
    """
    texts = slice(first_text, first_text + len(items.texts))
    ngrams = slice(*np.searchsorted(table.texts, (texts.start, texts.stop)))
    numbers, num_slots = table.numbers[ngrams], 2 * len(items.records)
    of_text = table.texts[ngrams] - first_text
    slots = items.slots[of_text]
    is_shared = common_ngrams(slots // 2, numbers, len(items.records), shared_by) & items.has_template[of_text]
    is_found = (found.files[numbers] >= 0) & ~is_shared
    num_words = np.bincount(items.slots, table.words.counts()[texts], num_slots).astype(int)
    num_left_out = np.bincount(slots[is_shared], minlength=num_slots)
    num_ngrams = np.bincount(slots, minlength=num_slots) - num_left_out
    num_found = np.bincount(slots[is_found], minlength=num_slots)
    first = np.full(num_slots, NO_ROW)
    np.minimum.at(first, slots[is_found], found.files[numbers[is_found]] * 2**40 + found.rows[numbers[is_found]])
    for item, record in enumerate(items.records):
        sides = {}
        for slot, side in enumerate(SIDES, start=2 * item):
            counts = [int(of[slot]) for of in (num_words, num_ngrams, num_left_out, num_found)]
            file, row = divmod(int(first[slot]), 2**40)
            place = {"file": files[file], "row": row} if counts[-1] else None
            sides[side] = describe(*counts) | {"first": place}
        yield {**record, **sides}


def common_ngrams(
    items: NDArray[np.int64], numbers: NDArray[np.int64], num_items: int, shared_by: float
) -> NDArray[np.bool_]:
    """(n-grams,) whether each is in so many items that it is not of one of them, but of their template."""
    num_numbers = int(numbers.max(initial=0)) + 1
    pairs = np.unique(items * num_numbers + numbers)
    num_with = np.bincount(pairs % num_numbers, minlength=num_numbers)
    return num_with[numbers] > max(FEWEST_ITEMS, shared_by * num_items)


def describe(num_words: int, num_ngrams: int, num_left_out: int, num_found: int) -> dict[str, Any]:
    status = CHECKED if num_ngrams else SHARED if num_left_out else TOO_SHORT if num_words else EMPTY
    return {
        "status": status,
        "words": num_words,
        "ngrams": num_ngrams,
        "left_out": num_left_out,
        "found": num_found,
        "share": num_found / num_ngrams if num_ngrams else None,
    }


def summarise(records: Sequence[Mapping[str, Any]], side: str, min_share: float) -> dict[str, int]:
    """Numbers of items: of each status, with any n-gram found, and with at least this share of them found."""
    sides = [record[side] for record in records]
    return {
        "items": len(sides),
        **{status: sum(one["status"] == status for one in sides) for status in STATUSES},
        "left_out": sum(one["left_out"] for one in sides),
        "any": sum(one["found"] > 0 for one in sides),
        "contaminated": sum(one["status"] == CHECKED and one["share"] >= min_share for one in sides),
    }
