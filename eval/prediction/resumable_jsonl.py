"""Predictions of a run that may be cut short: appended chunk by chunk, taken up again at the last whole chunk.

The first line is a key of everything that decides the content; answers under another key are not taken up.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import Artifact, content_hash, digest
from open_instruct.common.json_files import atomic_write


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
        is_known = next(self._lines(), None) == self.key + "\n"
        num_kept = sum(1 for _ in self.lines()) // self.chunk * self.chunk if is_known else 0
        with atomic_write(self.path) as file:
            file.write(self.key + "\n")
            file.writelines(islice(self.lines(), num_kept))
        return num_kept

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def lines(self) -> Iterator[str]:
        """The records, as JSON lines."""
        return islice(self._lines(), 1, None)

    def _lines(self) -> Iterator[str]:
        """Lines that were written to their end; one by one, so that memory does not grow with the file."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))


def partial_of(artifact: Artifact, chunk: int) -> Partial:
    """The partial file beside an artifact, under a key of its arguments and the content of its inputs."""
    inputs = {role: content_hash(path) for role, path in artifact.inputs.items()}
    key = digest({"arguments": dict(artifact.arguments), "inputs": inputs, "chunk": chunk})
    return Partial(artifact.path.with_name(artifact.path.name + ".partial"), key, chunk)
