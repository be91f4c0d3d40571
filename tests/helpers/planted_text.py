"""A folder of made-up text in which known items occur: whole, in part, in another form, or almost."""

import gzip
import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open_instruct.common.json_files import write_jsonl
from open_instruct.data import text_scan

N = 13
LETTERS = "abcdefghijklmnopqrstuvwxyz"
INSTRUCTION = "Read the passage below with care and then say in one short sentence what a reader should remember of it"
"""Of every chat, and also in the text: no item's own."""
PUNCTUATION = (" ", ", ", ".\n", " – ", "… ", "” “", "\t(", ") ", "_", "\xa0")
ROWS_PER_GROUP = 5_000
ENDINGS = (".parquet", ".jsonl", ".parquet", ".jsonl.gz", ".parquet", ".jsonl", ".parquet", ".jsonl.zst")

Words = list[str]


@dataclass(frozen=True)
class Kind:
    """How an item is planted."""

    lengths: tuple[int, int]
    """Fewest and most words of the item."""
    plant: Callable[["Maker", Words], str]
    num_found: Callable[[int], int]
    """Number of words -> number of n-grams that the text has then."""
    place: str = "inside"
    """Where in a document: `inside`, `start`, `end`, `border` (of two pieces of a long document) or `split`: its first
    half ends a document, its second half begins the next one."""


@dataclass
class Item:
    kind: str
    side: str
    record: dict[str, Any]
    planted: str
    num_found: int
    place: str
    file: str | None = None
    row: int | None = None
    """From 1; None until it is planted."""

    def expected(self) -> dict[str, tuple[int, Any]]:
        """Side -> number of n-grams found, and the first document that has one."""
        none = {"prompt": (0, None), "completion": (0, None)}
        if not self.num_found:
            return none
        return none | {self.side: (self.num_found, {"file": self.file, "row": self.row})}


class Maker:
    """Makes words, items and documents."""

    def __init__(self, seed: int) -> None:
        self.rng, self.numpy_rng = random.Random(seed), np.random.default_rng(seed)
        words = {self.letters(self.rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 11))) for _ in range(30_000)}
        words |= {self.letters(4) + self.rng.choice("éüßñçжλ") + self.letters(3) for _ in range(300)}
        self.vocabulary = np.array(sorted(words), object)

    def letters(self, number: int) -> str:
        return "".join(self.rng.choices(LETTERS, k=number))

    def words(self, number: int) -> Words:
        return self.vocabulary[self.numpy_rng.integers(0, len(self.vocabulary), number)].tolist()

    def document(self) -> str:
        """Some thousand characters; two of five have quotation marks, as on the web."""
        text = " ".join(self.words(self.rng.randrange(50, 1_500)))
        return f"“{text}.” – {self.letters(5)}’s" if self.rng.random() < 0.4 else text


def whole(maker: Maker, words: Words) -> str:
    return " ".join(words)


def half(maker: Maker, words: Words) -> str:
    return " ".join(words[: len(words) // 2])


def other_form(maker: Maker, words: Words) -> str:
    """In other case, with other punctuation, with accents as characters of their own."""
    changed = [maker.rng.choice((str.upper, str.title, str.lower))(word) for word in words]
    text = "".join(word + maker.rng.choice(PUNCTUATION) for word in changed)
    return unicodedata.normalize(maker.rng.choice(("NFC", "NFD")), text)


def almost(maker: Maker, words: Words) -> str:
    """Every 13th word is another one: 12 words are equal, then one differs."""
    return " ".join(maker.letters(14) if i % N == N - 1 else word for i, word in enumerate(words))


def first_changed(maker: Maker, words: Words) -> str:
    return " ".join([maker.letters(14), *words[1:]])


def none(_: int) -> int:
    return 0


def ngrams(num_words: int) -> int:
    return max(0, num_words - N + 1)


KINDS = {
    "whole": Kind((13, 90), whole, ngrams),
    "at the start": Kind((13, 40), whole, ngrams, "start"),
    "at the end": Kind((13, 40), whole, ngrams, "end"),
    "in a long document": Kind((60, 90), whole, ngrams, "border"),
    "in part": Kind((26, 90), half, lambda number: ngrams(number // 2)),
    "in another form": Kind((13, 90), other_form, ngrams),
    "short": Kind((8, 12), whole, lambda _: 1),
    "12 of 13 words": Kind((13, 60), almost, none),
    "over two documents": Kind((24, 24), whole, none, "split"),
    "short, one word differs": Kind((8, 12), first_changed, none),
    "too short": Kind((3, 7), whole, none),
}


@dataclass
class PlantedText:
    """Items of a declared evaluation set and of a train file with chats, and the text that has them."""

    evaluation_file: Path
    train_file: Path
    text_dir: Path
    items: dict[Path, list[Item]] = field(default_factory=dict)
    num_documents: int = 0
    text_bytes: int = 0


def make_planted_text(folder: Path, *, num_items: int, text_bytes: int, num_files: int, seed: int = 0) -> PlantedText:
    """`num_items` of each file; the text is half Parquet, half JSON lines, of which some are compressed."""
    maker = Maker(seed)
    made = PlantedText(
        folder / "data" / "evaluation" / "socialiqa.jsonl", folder / "data" / "chats.jsonl", folder / "text"
    )
    for path, make_record in ((made.evaluation_file, question_record), (made.train_file, chat_record)):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.items[path] = [make_item(maker, number, make_record) for number in range(num_items)]
        write_jsonl(path, [item.record for item in made.items[path]])
    planted = [item for items in made.items.values() for item in items]
    maker.rng.shuffle(planted)
    for number in range(num_files):
        path = made.text_dir / f"part{number % 3}" / f"{number:04}{ENDINGS[number % len(ENDINGS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = documents(maker, planted[number::num_files], str(path.relative_to(made.text_dir)), made)
        write_texts(path, until_size(texts, text_bytes // num_files, made))
    return made


def make_item(maker: Maker, number: int, make_record: Callable[[Maker, int, str, str], dict[str, Any]]) -> Item:
    """Every kind in turn, of prompts and of completions; every third item is nowhere."""
    name = list(KINDS)[number // 3 % len(KINDS)]
    kind, side = KINDS[name], ("prompt", "completion")[number % 2]
    words = maker.words(maker.rng.randint(*kind.lengths))
    texts = {"prompt": maker.words(30), "completion": maker.words(20)} | {side: words}
    record = make_record(maker, number, *(" ".join(text) for text in texts.values()))
    if number % 3 == 2:
        return Item("nowhere", side, record, "", 0, "nowhere")
    return Item(name, side, record, kind.plant(maker, words), kind.num_found(len(words)), kind.place)


def question_record(maker: Maker, number: int, context: str, question: str) -> dict[str, Any]:
    a, b, c = (" ".join(maker.words(3)) for _ in range(3))
    prompt = f"### Input: {context}\n ### Answer: Answer A: {a} Answer B: {b} Answer C: {c}\n ### Question:"
    return {"dataset": "socialiqa", "id": f"socialiqa-{number}", "prompt": prompt, "completion": f" {question}"}


def chat_record(maker: Maker, number: int, passage: str, answer: str) -> dict[str, Any]:
    turns = {"system": INSTRUCTION, "user": passage, "assistant": answer}
    messages = [{"role": role, "content": content} for role, content in turns.items()]
    return {"dataset": "chats", "id": f"chats-{number}", "messages": messages}


def documents(maker: Maker, items: Sequence[Item], file: str, made: PlantedText) -> Iterator[tuple[str, int]]:
    """Documents without end, with the number of items that are still to be planted after each."""
    queue, row = list(items), 0
    at_borders = [item for item in queue if item.place == "border"]
    queue = [item for item in queue if item.place not in ("border", "nowhere")]
    if at_borders:
        row += 1
        mark(at_borders, file, row)
        yield long_document(maker, at_borders), len(queue)
    second_half = ""
    while True:
        row += 1
        text = maker.document()
        item = queue.pop() if queue and not second_half else None
        if second_half:
            text, second_half = f"{second_half} {text}", ""
        if item is not None:
            mark([item], file, row)
            text, second_half = plant(maker, item, text)
        yield f"{INSTRUCTION}. {text}" if row % 50 == 0 and not second_half else text, len(queue) + bool(second_half)


def mark(items: Sequence[Item], file: str, row: int) -> None:
    for item in items:
        item.file, item.row = file, row


def plant(maker: Maker, item: Item, text: str) -> tuple[str, str]:
    """The document with the item, and what the next one begins with."""
    if item.place == "start":
        return f"{item.planted} {text}", ""
    if item.place == "end":
        return f"{text} {item.planted}", ""
    words = item.planted.split(" ")
    if item.place == "split":
        return f"{text} {' '.join(words[:12])}", " ".join(words[12:])
    middle = text.find(" ", len(text) // 2)
    return f"{text[:middle]} {item.planted}{text[middle:]}", ""


def long_document(maker: Maker, items: Sequence[Item]) -> str:
    """Three items lie around each place where the document is cut into pieces."""
    text, border = "", text_scan.PIECE
    for first in range(0, len(items), 3):
        planted = " ".join(item.planted for item in items[first : first + 3])
        text += filler(maker, border - len(planted) // 2 - len(text)) + f" {planted} "
        border += text_scan.PIECE - 64 * (N - 1)  # which is how far pieces overlap
    return text + filler(maker, 1_000)


def filler(maker: Maker, length: int) -> str:
    text = " ".join(maker.words(length // 4))
    return text[: text.rfind(" ", 0, length)]


def until_size(texts: Iterator[tuple[str, int]], num_bytes: int, made: PlantedText) -> Iterator[str]:
    """At least so many bytes, and all items."""
    size = 0
    for text, num_left in texts:
        size += len(text)
        made.num_documents += 1
        yield text
        if size >= num_bytes and not num_left:
            break
    made.text_bytes += size


def write_texts(path: Path, texts: Iterator[str]) -> None:
    if path.suffix == ".parquet":
        schema = pa.schema({"id": pa.int64(), "text": pa.string()})
        with pq.ParquetWriter(path, schema) as writer:
            for number, group in enumerate(groups(texts)):
                ids = range(number * ROWS_PER_GROUP, number * ROWS_PER_GROUP + len(group))
                writer.write_table(pa.table({"id": ids, "text": group}, schema))
        return
    with open_packed(path) as file:
        for number, text in enumerate(texts):
            # Half of the lines with characters as they are, half with escapes.
            file.write((json.dumps({"id": number, "text": text}, ensure_ascii=number % 2 == 0) + "\n").encode())


def groups(texts: Iterator[str]) -> Iterator[list[str]]:
    group = list[str]()
    for text in texts:
        group.append(text)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def open_packed(path: Path) -> Any:
    if path.suffix == ".zst":
        return pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd")
    return gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb")


def differences(items: Sequence[Item], found: Sequence[dict[str, Any]]) -> list[str]:
    """Where the records of the check are not what was planted."""
    wrong = [] if len(items) == len(found) else [f"{len(found)} records of {len(items)} items"]
    for item, record in zip(items, found, strict=False):
        result = {side: (record[side]["found"], record[side]["first"]) for side in ("prompt", "completion")}
        if result != item.expected() or record["id"] != item.record["id"]:
            wrong.append(f"{record['id']} ({item.kind}): found {result}, planted {item.expected()}")
    return wrong
