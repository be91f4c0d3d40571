"""Read and write JSON and JSON lines files: errors name the file and line, a write is atomic."""

import gzip
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from open_instruct.common.errors import UserError
from open_instruct.common.markers import note_version


def read_jsonl(
    path: Path,
    required: Sequence[str] = (),
    *,
    texts: Sequence[str] = (),
    comment: str | None = None,
    any_text: bool = False,
) -> Iterator[dict[str, Any]]:
    """Records of a JSON lines file, `.gz` or not, which have the keys in `required` and text in those in `texts`.

    comment: lines that begin with it are left out, and empty ones (None: every line has a record); any_text: text that
    UTF-8 cannot encode is no error, for parts of these records are not used.
    Raises UserError with file:line at the first malformed one, and where the file is a folder or damaged.
    """
    required = tuple(dict.fromkeys((*required, *texts)))
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if comment is not None and (not line.strip() or line.lstrip().startswith(comment.encode())):
                    continue
                record = parse_line(line, place=f"{path}:{number}")
                if not any_text and b"\\u" in line:  # how JSON writes half a character
                    for key, value in record.items():
                        require_text(json.dumps([key, value], ensure_ascii=False), place=f"{path}:{number}: {key}")
                missing = [key for key in required if key not in record]
                if missing:
                    found = ", ".join(record)
                    raise UserError(f"{path}:{number}: expected {', '.join(missing)}; found {found}")
                for key in texts:
                    require_text(record[key], place=f"{path}:{number}: {key}")
                yield record
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected a JSON lines file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: not readable as gzip ({error}); is it complete? Get it again") from error


def parse_line(line: bytes, *, place: str) -> dict[str, Any]:
    """The object in one line.  Raises UserError, beginning with `place`, where it has none."""
    text = decode(line, place=place)
    try:
        record = DECODER.decode(text)
    except RepeatedKeyError as error:
        raise UserError(f"{place}: key {error} for the second time; expected each key once") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: expected one JSON object a line, found {text[:60]!r}") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected a JSON object; found {type(record).__name__}")
    return record


class RepeatedKeyError(ValueError):
    """Of which all but one value would be lost."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RepeatedKeyError(next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number])))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=each_key_once)


def decode(content: bytes, *, place: str) -> str:
    """Text in UTF-8, without the byte order mark that some editors put at its beginning.

    Raises UserError, beginning with `place`, for another encoding, which is named where its mark or its NULs tell it.
    """
    try:
        if b"\0" not in content:  # which no text has; in UTF-16 and UTF-32 every other byte is one
            return content.decode().removeprefix("\ufeff")
        found = "NUL bytes, which no text has"
    except UnicodeDecodeError as error:
        found = f"not UTF-8 ({error.reason})"
    encoding = json.detect_encoding(content).upper()
    found = f"{encoding}, not UTF-8" if encoding.startswith(("UTF-16", "UTF-32")) else found
    raise UserError(f"{place}: {found}; save the file as UTF-8")


def require_text(value: Any, *, place: str) -> None:
    """Raises UserError, beginning with `place`, for a value that is not text which UTF-8 can encode."""
    if not isinstance(value, str):
        raise UserError(f"{place}: expected text, found {str(value)[:60]!r} ({type(value).__name__})")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: text that is not valid Unicode ({error.reason})") from error


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


def read_json(path: Path, *, cure: str = "remove it and run its stage again") -> Any:
    """Raises UserError, ending in `cure`, where the file is missing or is not JSON."""
    try:
        return json.loads(decode(path.read_bytes(), place=str(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); {cure}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{path}: not JSON ({error}); {cure}") from error


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` when the block succeeds: readers see the old or the whole new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        note_version(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what killed processes left of writing `path`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for file in path.parent.iterdir():
        if name.fullmatch(file.name) and file.is_file():
            file.unlink()
