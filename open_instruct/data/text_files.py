"""Read the documents of a folder of text, one by one: Parquet files, and JSON lines, compressed or not.

Memory does not depend on the size of a file. Of a Parquet file only the column of the text is read, some rows at once;
of JSON lines one line, which may have LONGEST_LINE bytes.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import parse_line, require_text

PARQUET = ".parquet"
JSON_LINES = tuple(f".{name}{packed}" for name in ("jsonl", "json") for packed in ("", ".gz", ".zst"))
BATCH_BYTES = 4 * 2**20
"""Of a Parquet column that are decoded at once, by the mean size of its rows."""
MOST_ROWS = 10_000
LONGEST_LINE = 2**27
BUFFER_BYTES = 2**20
NUM_NAMED = 5


@dataclass
class Rejected:
    """Rows without text. Without `is_allowed` the first one is an error."""

    is_allowed: bool = False
    number: int = 0
    named: list[str] = field(default_factory=list)
    """The first of them, with what is wrong."""

    def add(self, error: UserError) -> None:
        """Raises UserError where none is allowed."""
        if not self.is_allowed:
            raise UserError(f"{error}; --skip_bad_rows leaves such rows out and counts them") from error
        self.number += 1
        if len(self.named) < NUM_NAMED:
            self.named.append(str(error))


def find_text_files(folder: Path, pattern: str | None) -> list[Path]:
    """The files of a folder and its folders that match a glob pattern (None: all but hidden ones), sorted.

    Raises UserError where there is none, and where one is of a format that is not read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with text in {PARQUET} or {', '.join(JSON_LINES)}")
    try:
        inner = [(path, path.relative_to(folder)) for path in folder.glob(pattern or "**/*")]
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"--text_files {pattern}: {error}; expected a pattern below {folder}: '**/*.jsonl'") from error
    shown = sorted({path for path, name in inner if not any(part.startswith(".") for part in name.parts)})
    # What is behind a link to a folder is not found by a pattern, and would be missed without a word.
    if links := [path for path in shown if path.is_symlink() and path.is_dir()]:
        raise UserError(
            f"{links[0]} is a link to a folder; run this once for each folder of text: --text_dir {links[0]}"
        )
    files = [path for path in shown if path.is_file()]
    if not files:
        what = f"no file matches {pattern}" if pattern else "no file in it"
        raise UserError(f"{folder}: {what}; expected text in {PARQUET} or {', '.join(JSON_LINES)}")
    other = [str(path.relative_to(folder)) for path in files if not path.name.endswith((PARQUET, *JSON_LINES))]
    if other:
        more = f" and {len(other) - NUM_NAMED} more" if len(other) > NUM_NAMED else ""
        raise UserError(
            f"{folder}: {', '.join(other[:NUM_NAMED])}{more} cannot be read; expected {PARQUET} or "
            f"{', '.join(JSON_LINES)}. Choose the files with text by a pattern: --text_files '**/*{PARQUET}'"
        )
    return files


def read_documents(path: Path, text_field: str, rejected: Rejected) -> Iterator[tuple[int, str]]:
    """(row, text) of each document of a file; rows count from 1, in JSON lines empty ones too.

    Raises UserError for a file that is not readable, and for a row without text unless that is allowed.
    """
    if path.name.endswith(PARQUET):
        yield from parquet_documents(path, text_field, rejected)
    else:
        yield from line_documents(path, text_field, rejected)


def line_documents(path: Path, text_field: str, rejected: Rejected) -> Iterator[tuple[int, str]]:
    row = 0
    with readable(path), open_lines(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            row += 1
            if line.isspace():
                continue
            try:
                if len(line) > LONGEST_LINE:
                    skip_line(file)
                    raise UserError(f"{path}:{row}: a line of more than {LONGEST_LINE:,} bytes; expected a document")
                text = text_in_line(line, text_field, place=f"{path}:{row}")
            except UserError as error:
                rejected.add(error)
            else:
                yield row, text


def skip_line(file: IO[bytes]) -> None:
    while (rest := file.readline(BUFFER_BYTES)) and not rest.endswith(b"\n"):
        pass


def text_in_line(line: bytes, text_field: str, *, place: str) -> str:
    """Raises UserError for a line without such a field, or without text in it."""
    record = parse_line(line, place=place)
    if text_field not in record:
        raise UserError(f"{place}: no field {text_field}; found {', '.join(record)}: name yours with --text_field")
    text = record[text_field]
    if not isinstance(text, str) or b"\\u" in line:  # how JSON writes half a character
        require_text(text, place=f"{place}: {text_field}")
    return text


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(path) as unpacked, io.BufferedReader(unpacked, BUFFER_BYTES) as file:  # type: ignore[arg-type]
            yield file
    elif path.suffix == ".zst":
        import pyarrow as pa

        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as unpacked:
            yield io.BufferedReader(unpacked, BUFFER_BYTES)  # type: ignore[arg-type]
    else:
        with path.open("rb", buffering=BUFFER_BYTES) as file:
            yield file


def parquet_documents(path: Path, text_field: str, rejected: Rejected) -> Iterator[tuple[int, str]]:
    import pyarrow.parquet as pq

    row = 0
    with readable(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        require_text_column(path, file.schema_arrow, text_field)
        for group in range(file.metadata.num_row_groups):
            size = rows_at_once(file.metadata.row_group(group), text_field)
            columns = {"columns": [text_field], "row_groups": [group], "use_threads": False}
            for batch in file.iter_batches(size, **columns):
                for text in texts_of(batch.column(0)):
                    row += 1
                    if isinstance(text, str):
                        yield row, text
                    else:
                        rejected.add(UserError(f"{path}, row {row}: {text_field}: {text or 'no value, expected text'}"))


def require_text_column(path: Path, schema: Any, text_field: str) -> None:
    """Raises UserError where the column is missing or has no text."""
    import pyarrow.types as types

    if schema.names.count(text_field) > 1:
        raise UserError(f"{path}: {schema.names.count(text_field)} columns {text_field}; expected one")
    if text_field not in schema.names:
        raise UserError(
            f"{path}: no column {text_field}; found {', '.join(schema.names)}: name yours with --text_field"
        )
    found = schema.field(text_field).type
    found = found.value_type if types.is_dictionary(found) else found
    if not (types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)):
        raise UserError(f"{path}: column {text_field} is of type {found}; expected text: name yours with --text_field")


def rows_at_once(group: Any, text_field: str) -> int:
    """Rows of a row group of about BATCH_BYTES of text."""
    columns = (group.column(index) for index in range(group.num_columns))
    size = next(column.total_uncompressed_size for column in columns if column.path_in_schema == text_field)
    return min(max(1, BATCH_BYTES * group.num_rows // max(1, size)), MOST_ROWS)


def texts_of(column: Any) -> Iterator[str | UnicodeDecodeError | None]:
    """The values of a Parquet column, None where one is missing, an error where it is not UTF-8."""
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:
        for value in column:
            try:
                yield value.as_py()
            except UnicodeDecodeError as error:
                yield error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises UserError that names the file where it is damaged."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not readable as gzip ({error}); is it complete? Get it again") from error
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise UserError(f"{path}: not readable ({error}); is it complete? Get it again") from error
