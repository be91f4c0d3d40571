"""JSON lines file of an unfinished run, which is appended chunk by chunk and resumed after the last complete chunk.

The first line is a hash of everything that affects the content; a file with another hash is not resumed.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import atomic_write, to_line
from open_instruct.common.ownership import MOVE_AWAY

KEY, NUM_KEY_BYTES = re.compile(rb"([0-9a-f]{64}\n)?"), 65
"""First line of a partial file."""


def partial_path(artifact: Artifact) -> Path:
    return artifact.path.with_name(f"{artifact.path.name}.partial")


def require_own_partial(artifact: Artifact) -> None:
    """Raises UserError where a file or folder that is no partial file stands in the place of the artifact's."""
    path = partial_path(artifact)
    if not os.path.lexists(path):
        return
    is_own = False
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            is_own = KEY.fullmatch(file.read(NUM_KEY_BYTES)) is not None
    if not is_own:
        raise UserError(f"{path} was not written by this project, which needs the place; {MOVE_AWAY}")


@dataclass(frozen=True)
class ResumableJsonl:
    path: Path
    key: str
    chunk_size: int
    """Records between two writes."""

    @classmethod
    def beside(cls, artifact: Artifact, chunk_size: int) -> "ResumableJsonl":
        """The file `{artifact}.partial`, with a hash of the artifact's arguments and the content of its inputs."""
        facts = {"arguments": dict(artifact.arguments), "inputs": artifact.input_hashes(), "chunk": chunk_size}
        require_own_partial(artifact)
        return cls(partial_path(artifact), digest(facts), chunk_size)

    def resume(self) -> int:
        """Leave only what can be resumed; return the number of records, without which there is no file.

        Only complete chunks are kept: every batch, and so every float, is then that of an uninterrupted run.
        """
        has_key = next(self._complete_lines(), None) == self.key + "\n"
        num_kept = sum(1 for _ in self.lines()) // self.chunk_size * self.chunk_size if has_key else 0
        if num_kept == 0:
            self.path.unlink(missing_ok=True)
            return 0
        with atomic_write(self.path) as file:
            file.write(self.key + "\n")
            file.writelines(islice(self.lines(), num_kept))
        return num_kept

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(map(to_line, records))
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                text = f"{self.key}\n{text}"
            file.write(text)

    def lines(self) -> Iterator[str]:
        """The records, as JSON lines."""
        return islice(self._complete_lines(), 1, None)

    def _complete_lines(self) -> Iterator[str]:
        """Lines that end with a line break, one by one: memory does not grow with the file."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))
