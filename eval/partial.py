"""Predictions of a run that may be cut short: appended chunk by chunk, taken up again at the last whole chunk.

The first line is a key of everything that decides the content; answers under another key are not taken up.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_instruct.records import Artifact, atomic_write, content_hash, digest


@dataclass(frozen=True)
class Partial:
    path: Path
    key: str
    chunk: int
    """Items between two writes."""

    def resume(self) -> int:
        """Make the file ready to append to; returns how many items it holds already.

        Only whole chunks are kept: then every batch, and so every last digit, is that of an uninterrupted run.
        """
        found = self._lines()
        kept = found[1:] if found[:1] == [self.key + "\n"] else []
        kept = kept[: len(kept) // self.chunk * self.chunk]
        with atomic_write(self.path) as file:
            file.writelines([self.key + "\n", *kept])
        return len(kept)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def lines(self) -> list[str]:
        """The records, as JSON lines."""
        return self._lines()[1:]

    def _lines(self) -> list[str]:
        """Lines that were written to their end."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8") as file:
            return [line for line in file if line.endswith("\n")]


def partial_of(artifact: Artifact, chunk: int) -> Partial:
    """The partial file beside an artifact, under a key of its arguments and the content of its inputs."""
    inputs = {role: content_hash(path) for role, path in artifact.inputs.items()}
    key = digest({"arguments": dict(artifact.arguments), "inputs": inputs, "chunk": chunk})
    return Partial(artifact.path.with_name(artifact.path.name + ".partial"), key, chunk)
