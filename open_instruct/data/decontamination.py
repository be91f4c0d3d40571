"""Find train rows that are also in an evaluation set: the same text exactly, or except for case and white space."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

NGRAM = 13
"""Length in words of the n-grams that count as overlap: GPT-3, arXiv 2005.14165, appendix C."""
SHORT_NGRAM = 8
"""Texts with at least this many and fewer than NGRAM words count as overlap if all of the text occurs."""


class TextHashes:
    """Hashes of the texts of records, 16 bytes each."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.exact: set[bytes] = set()
        self.normalised: set[bytes] = set()
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        text = full_text(record)
        self.exact.add(text_hash(text))
        self.normalised.add(text_hash(normalise(text)))

    def __ior__(self, other: "TextHashes") -> "TextHashes":
        self.exact |= other.exact
        self.normalised |= other.normalised
        return self

    def match(self, record: Mapping[str, Any]) -> str | None:
        """How the text of `record` is among these: `exact`, `normalised` or None."""
        text = full_text(record)
        if text_hash(normalise(text)) not in self.normalised:
            return None
        return "exact" if text_hash(text) in self.exact else "normalised"


def full_text(record: Mapping[str, Any]) -> str:
    """Prompt and completion, or the content of all messages."""
    if "messages" in record:
        return " ".join(turn["content"] for turn in record["messages"])
    return record["prompt"] + record["completion"]


def normalise(text: str) -> str:
    return " ".join(text.lower().split())


def text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
