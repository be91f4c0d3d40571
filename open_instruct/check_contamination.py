"""Check which items of train and evaluation files occur in pre-training text, by the n-grams that both have.

Reads   formatted files (JSON lines), and all text in a folder: Parquet, JSON lines, .gz and .zst or not.
Writes  output/checks/contamination_{set}.jsonl, a line for each item: the share of its n-grams that is in the text, of
        the prompt and of the completion, and the document that has the first one; a table to the terminal. Removes
        nothing.

    python open_instruct/check_contamination.py --input_files data/evaluation/socialiqa.jsonl --text_dir /data/dolma

An item that is too short to say is counted as such. docs/data.md says what a word and an n-gram are.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import read_jsonl, write_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.common.text_table import aligned
from open_instruct.data.contamination import STATUSES, Items, overlaps, read_items, summarise
from open_instruct.data.decontamination import NGRAM
from open_instruct.data.ngram_table import NgramTable, tabulate_ngrams
from open_instruct.data.registry import read_datasets
from open_instruct.data.source_texts import SIDES, SourceTexts
from open_instruct.data.text_files import find_text_files
from open_instruct.data.text_scan import Found, ScanOptions, scan_files


@dataclass(frozen=True)
class Args:
    input_files: tuple[Path, ...]
    """Train and evaluation files, as format_generalization.py writes them."""
    text_dir: Path
    """Folder of the text, with its inner folders: .parquet, .jsonl, .json, also as .gz and .zst."""
    text_files: str | None = None
    """Glob pattern of the files to read in that folder, such as `**/*.parquet` (default: all but hidden ones)."""
    text_field: str = "text"
    """Column of the text, or key in a line."""
    ngram: int = NGRAM
    """Words of an n-gram."""
    min_share: float = 0.8
    """Share of n-grams found from which an item counts as contaminated in the table."""
    shared_by: float = 0.1
    """N-grams that more than this share of a file's items have are left out, as words of the template."""
    skip_bad_rows: bool = False
    """Leave out and count rows of the text that have no text or are not JSON, instead of stopping."""
    num_workers: int = os.cpu_count() or 1
    """Processes, each of which reads one file at a time."""
    datasets_file: Path | None = None
    """YAML file that declares your own datasets, whose templates are then known (beside datasets.yaml in $base_dir)."""
    output_dir: Path | None = None
    """Folder of the results (default: output/checks)."""
    overwrite: bool = False
    """Replace results of other arguments."""


def main(args: Args) -> None:
    artifacts = result_files(args)
    files = find_text_files(args.text_dir, args.text_files)
    version = text_version(files, args.text_dir)
    outdated = [path for path, artifact in artifacts.items() if not is_done(artifact, version, args.overwrite)]
    if outdated:
        sources = SourceTexts(read_datasets(args.datasets_file))
        sets = [read_items(path, sources) for path in outdated]
        table = tabulate_ngrams(list(chain.from_iterable(items.texts for items in sets)), args.ngram)
        found, seconds = scan(files, table, args)
        facts = {"text_version": version, "scan": describe_scan(found, files, seconds)}
        write_results(sets, artifacts, table, found, [str(file.relative_to(args.text_dir)) for file in files], facts)
    print_table(artifacts, args.min_share)


def result_files(args: Args) -> dict[Path, Artifact]:
    """Input file -> its result.  Raises UserError where two have one."""
    arguments = {
        "text_dir": paths.relative(args.text_dir),
        "text_files": args.text_files,
        "text_field": args.text_field,
        "ngram": args.ngram,
        "shared_by": args.shared_by,
        "skip_bad_rows": args.skip_bad_rows,
    }
    folder = args.output_dir or paths.base_dir() / "output" / "checks"
    artifacts = {
        path: Artifact(folder / f"contamination_{set_name(path)}.jsonl", arguments, {"items": path})
        for path in args.input_files
    }
    for name, count in Counter(artifact.path.name for artifact in artifacts.values()).items():
        if count > 1:
            raise UserError(f"two input files have the result {name}; check one of them with another --output_dir")
    return artifacts


def set_name(path: Path) -> str:
    """`evaluation_` before the name of an evaluation file: a train file may have the same name."""
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return paths.safe_name(f"evaluation_{name}" if path.resolve().parent.name == "evaluation" else name)


def text_version(files: Iterable[Path], folder: Path) -> str:
    """Hash of the names, sizes and times of the text files, whose content is read only once."""
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def is_done(artifact: Artifact, version: str, overwrite: bool) -> bool:
    done = artifact.is_done(overwrite=overwrite)
    return done and read_sidecar(artifact.path)["text_version"] == version


def scan(files: Sequence[Path], table: NgramTable, args: Args) -> tuple[Found, float]:
    started = time.monotonic()
    found = scan_files(files, table, ScanOptions(args.text_field, args.skip_bad_rows, args.num_workers))
    if not found.num_documents:
        some = f": {'; '.join(found.rejected.named)}" if found.rejected.named else ""
        raise UserError(f"{args.text_dir}: no document in {len(files)} file(s){some}; expected text, see --text_field")
    return found, time.monotonic() - started


def describe_scan(found: Found, files: Sequence[Path], seconds: float) -> dict[str, Any]:
    return {
        "num_files": len(files),
        "file_bytes": sum(file.stat().st_size for file in files),
        "num_documents": found.num_documents,
        "text_bytes": found.num_bytes,
        "num_bad_rows": found.rejected.number,
        "bad_rows": found.rejected.named,
        "seconds": round(seconds, 2),
    }


def write_results(
    sets: Sequence[Items],
    artifacts: Mapping[Path, Artifact],
    table: NgramTable,
    found: Found,
    files: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    first_text = 0
    for items in sets:
        artifact = artifacts[items.path]
        with artifact.making() as sidecar:
            shared_by = float(artifact.arguments["shared_by"])
            write_jsonl(artifact.path, overlaps(items, first_text, table, found, files, shared_by))
            sidecar |= facts
        first_text += len(items.texts)


def print_table(artifacts: Mapping[Path, Artifact], min_share: float) -> None:
    counted = ("items", *STATUSES, "any", "contaminated", "left_out")
    titles = ("set", "part", "items", *STATUSES, "any overlap", f"share >= {min_share:g}", "shared n-grams left out")
    rows: list[tuple[str, ...]] = [titles]
    for path, artifact in artifacts.items():
        records = list(read_jsonl(artifact.path))
        for side in SIDES:
            counts = summarise(records, side, min_share)
            rows.append((set_name(path), side, *(f"{counts[name]:,}" for name in counted)))
    print(aligned(rows))
    described = dict.fromkeys(as_text(read_sidecar(artifact.path)["scan"]) for artifact in artifacts.values())
    print(*described, sep="\n")
    print(f"wrote {', '.join(paths.relative(artifact.path) for artifact in artifacts.values())}")


def as_text(scanned: Mapping[str, Any]) -> str:
    text = (
        f"compared with {scanned['num_documents']:,} documents of {scanned['num_files']:,} files, "
        f"{scanned['text_bytes'] / 1e6:,.1f} MB of text, in {scanned['seconds']} s"
    )
    if not scanned["num_bad_rows"]:
        return text
    return f"{text}, without {scanned['num_bad_rows']:,} rows, such as {'; '.join(scanned['bad_rows'])}"


if __name__ == "__main__":
    run(main, Args)
