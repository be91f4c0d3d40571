"""Read and write JSON and JSON lines files: errors name the file and line, a write is atomic."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from open_instruct.common.errors import UserError


def read_jsonl(path: Path, required: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Records of a JSON lines file, `.gz` or not.  Raises UserError with file:line at the first malformed one."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: expected one JSON object a line, found {line[:60]!r}") from error
            missing = [key for key in required if not isinstance(record, dict) or key not in record]
            if missing or not isinstance(record, dict):
                found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
                raise UserError(f"{path}:{number}: expected {', '.join(missing) or 'a JSON object'}; found {found}")
            yield record


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write `records` to `path` atomically; return their number."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(to_line(record))
            count += 1
    return count


def to_line(record: Mapping[str, Any]) -> str:
    """Raises UserError for text that UTF-8 cannot encode."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{record.get('id')}: text that is not valid Unicode ({error.reason})") from error
    return line


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); remove it and run its stage again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); remove it and run its stage again") from error


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block succeeds: readers see the old or the whole new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
