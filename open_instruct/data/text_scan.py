"""Look up the n-grams of a table in all documents of text files, one process a file."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from open_instruct.common.errors import UserError
from open_instruct.common.progress_line import ProgressLine
from open_instruct.data.ngram_table import NgramTable
from open_instruct.data.ngrams import locate_words
from open_instruct.data.text_files import NUM_NAMED, Rejected, read_documents
from open_instruct.data.words import characters, normalise_words

BATCH_BYTES = 4 * 2**20
"""Text of some documents that is looked up at once."""
PIECE = 4 * 2**20
"""Characters of a long document that are looked up at once."""


@dataclass(frozen=True)
class ScanOptions:
    text_field: str
    skip_bad_rows: bool = False
    num_workers: int = 1


@dataclass
class FileScan:
    """What one file has of a table."""

    file: int
    """Its number among all files."""
    ngrams: dict[int, int] = field(default_factory=dict)
    """Number of an n-gram -> the first row that has it."""
    num_documents: int = 0
    num_bytes: int = 0
    """Of its text, in UTF-8 without case and punctuation."""
    rejected: Rejected = field(default_factory=Rejected)


class Found:
    """The first occurrence of each n-gram of a table, and what was read."""

    def __init__(self, table: NgramTable) -> None:
        self.files = np.full(len(table.hashes), -1)
        """(n-grams,) the first file that has it, -1: none."""
        self.rows = np.full(len(table.hashes), -1)
        """(n-grams,) the first row of that file."""
        self.num_documents = self.num_bytes = 0
        self.rejected = Rejected(is_allowed=True)

    def add(self, scan: FileScan) -> None:
        for ngram, row in scan.ngrams.items():
            if self.files[ngram] < 0 or scan.file < self.files[ngram]:
                self.files[ngram], self.rows[ngram] = scan.file, row
        self.num_documents += scan.num_documents
        self.num_bytes += scan.num_bytes
        self.rejected.number += scan.rejected.number
        self.rejected.named = (self.rejected.named + scan.rejected.named)[:NUM_NAMED]


@dataclass(frozen=True)
class Work:
    """What all processes share."""

    table: NgramTable
    files: Sequence[Path]
    options: ScanOptions
    stop: Event


shared: list[Work] = []
"""In a process that scans files: its work. Forked, so that the table is in memory once."""


def scan_files(files: Sequence[Path], table: NgramTable, options: ScanOptions) -> Found:
    """Find the n-grams of `table`; which occurrence is the first does not depend on the number of processes.

    Raises UserError for files and rows that cannot be read, and where a process is killed.
    """
    context = multiprocessing.get_context("fork")
    work, found = Work(table, files, options, context.Event()), Found(table)
    prepare(table)
    largest_first = sorted(range(len(files)), key=lambda number: -files[number].stat().st_size)
    num_workers = min(options.num_workers, len(files))
    with ProgressLine("contamination", len(files), unit="file") as progress:
        if num_workers == 1:
            for number in largest_first:
                found.add(scan_file(work, number))
                progress.advance()
            return found
        with ProcessPoolExecutor(num_workers, context, shared.append, (work,)) as pool:
            jobs: list[Future[FileScan]] = [pool.submit(scan_shared, number) for number in largest_first]
            try:
                for job in as_completed(jobs):
                    found.add(job.result())
                    progress.advance()
            except BrokenProcessPool as error:
                raise UserError("a process was killed, as happens out of memory; use fewer --num_workers") from error
            finally:
                work.stop.set()
                pool.shutdown(cancel_futures=True)
    return found


def prepare(table: NgramTable) -> None:
    """Make what is made at first use, so that it is there before processes are forked."""
    characters()
    _ = table.filters


def scan_shared(number: int) -> FileScan:
    return scan_file(shared[0], number)


def scan_file(work: Work, number: int) -> FileScan:
    table, options = work.table, work.options
    scan = FileScan(number, rejected=Rejected(options.skip_bad_rows))
    is_known = np.zeros(len(table.hashes), np.bool_)
    last_row = 0
    for rows, texts in batches(read_documents(work.files[number], options.text_field, scan.rejected), table.n):
        if work.stop.is_set():
            break
        for ngram, document in table.find(locate_words(texts), is_known):
            scan.ngrams[ngram] = rows[document]
        scan.num_documents += len({*rows} - {last_row})
        scan.num_bytes += sum(map(len, texts))
        last_row = rows[-1]
    return scan


def batches(documents: Iterator[tuple[int, str]], n: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """Rows and normalised texts of about BATCH_BYTES. A long document is in several, which overlap."""
    rows, texts, size = list[int](), list[bytes](), 0
    for row, document in documents:
        for piece in pieces(document, n):
            rows.append(row)
            texts.append(normalise_words(piece))
            size += len(texts[-1])
            if size >= BATCH_BYTES:
                yield rows, texts
                rows, texts, size = [], [], 0
    if rows:
        yield rows, texts


def pieces(text: str, n: int) -> Iterator[str]:
    """A text in pieces of at most PIECE characters, each of which has the last n - 1 words of the one before.

    Words of half a piece, a megabyte, may be cut.
    """
    begin = 0
    while len(text) - begin > PIECE:
        middle = begin + PIECE // 2
        end = after_space(text, middle, begin + PIECE)
        yield text[begin:end]
        begin = last_words(text, n - 1, middle, end)
    yield text[begin:]


def last_words(text: str, number: int, lowest: int, end: int) -> int:
    """Where the last words before `end` begin, or some more of them; `end` where there are fewer above `lowest`."""
    back = 64 * number
    while (begin := end - back) > lowest:
        begin = after_space(text, lowest, begin)
        if len(normalise_words(text[begin:end]).split()) >= number:
            return begin
        back *= 2
    return end


def after_space(text: str, lowest: int, highest: int) -> int:
    """The last position up to `highest` that follows white space; `highest` where none above `lowest` does."""
    return next((place for place in range(highest, lowest, -1) if text[place - 1].isspace()), highest)
