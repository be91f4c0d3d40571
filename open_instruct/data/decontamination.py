"""Train items that also stand in an evaluation set: the same text to the letter, or but for case and white space."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any


class Texts:
    """Texts of items, remembered as digests: 16 bytes each, whatever their length."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.exact: set[bytes] = set()
        self.normalised: set[bytes] = set()
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        text = text_of(record)
        self.exact.add(fingerprint(text))
        self.normalised.add(fingerprint(normalise(text)))

    def match(self, record: Mapping[str, Any]) -> str | None:
        """`exact` or `normalised`, where the text of the record is among these; else None."""
        text = text_of(record)
        if fingerprint(normalise(text)) not in self.normalised:
            return None
        return "exact" if fingerprint(text) in self.exact else "normalised"


def text_of(record: Mapping[str, Any]) -> str:
    """All that is said in an item, prompt and completion."""
    if "messages" in record:
        return " ".join(turn["content"] for turn in record["messages"])
    return record["prompt"] + record["completion"]


def normalise(text: str) -> str:
    return " ".join(text.lower().split())


def fingerprint(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
