"""Inspect formatted files: token counts, labels, repeated ids, rows that train and evaluation files share."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_instruct.common import paths
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.data.decontamination import TextHashes, normalise, text_hash
from open_instruct.data.train_records import checked_records

if TYPE_CHECKING:
    from tokenizers import Tokenizer


BATCH_ROWS = 1_000


@dataclass
class FileReport:
    """Counts, samples and problems of one file."""

    path: Path
    identity: Mapping[str, Any]
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    prompt_tokens: list[int] = field(default_factory=list)
    completion_tokens: list[int] = field(default_factory=list)
    all_tokens: list[int] = field(default_factory=list)
    """Of prompt and completion as one text, plus EOS."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    texts: TextHashes = field(default_factory=TextHashes)
    prompts: set[bytes] = field(default_factory=set)
    """Hashes of the normalised prompts."""
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(paths.data_dir()).with_suffix(""))

    @property
    def is_train(self) -> bool:
        return self.path.parent == paths.data_dir()


@dataclass(frozen=True)
class SharedRows:
    """Numbers of train rows that are also in an evaluation file."""

    train: str
    evaluation: str
    exact: int
    normalised: int
    """Equal except for case and white space."""
    same_prompt: int
    """Equal prompts, different completions."""


def inspect_file(path: Path, tokenizer: "Tokenizer", *, num_samples: int) -> FileReport:
    """Read a file once, batch by batch.  Raises UserError with file:line for a malformed record."""
    identity = read_sidecar(path)["identity"] if has_sidecar(path) else {}
    report = FileReport(path, identity)
    if not identity:
        report.problems.append("no sidecar: unfinished, or not made by this project; format it again")
    records = checked_records(path, required=("dataset", "id"))
    while batch := list(islice(records, BATCH_ROWS)):
        add_batch(report, batch, tokenizer, num_samples)
    add_problems(report)
    return report


def add_batch(report: FileReport, batch: list[dict[str, Any]], tokenizer: "Tokenizer", num_samples: int) -> None:
    """Add a batch of records to the counts."""
    prompts, completions = zip(*map(prompt_and_completion, batch), strict=True)
    whole = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    report.prompt_tokens += num_tokens(tokenizer, prompts)
    report.completion_tokens += num_tokens(tokenizer, completions)
    around = num_first(tokenizer) + 1  # and EOS
    report.all_tokens += [count + around for count in num_tokens(tokenizer, whole)]
    report.samples += batch[: max(0, num_samples - report.rows)]
    report.rows += len(batch)
    report.ids.update(record["id"] for record in batch)
    report.prompts.update(text_hash(normalise(prompt)) for prompt in prompts if prompt.strip())
    if report.identity.get("kind") == "labels":
        report.labels.update(completion.strip() for completion in completions)
    for record in batch:
        report.texts.add(record)


def num_first(tokenizer: "Tokenizer") -> int:
    """Number of tokens that begin every text, such as BOS."""
    return len(list(takewhile(bool, tokenizer.encode(".").special_tokens_mask)))


def num_tokens(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[int]:
    tokenizer.encode_special_tokens = True  # what a text spells out is no special token
    return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def prompt_and_completion(record: Mapping[str, Any]) -> tuple[str, str]:
    """The prompt and the completion; of a chat, all other turns and the assistant's turns."""
    if "messages" not in record:
        return record["prompt"], record["completion"]
    turns = {True: "", False: ""}
    for turn in record["messages"]:
        turns[turn["role"] == "assistant"] += turn["content"] + "\n"
    return turns[False], turns[True]


def add_problems(report: FileReport) -> None:
    """Add everything that makes results from this file wrong."""
    repeated = [name for name, count in report.ids.items() if count > 1]
    if repeated:
        report.problems.append(f"{len(repeated)} ids are repeated, such as {repeated[0]}")
    if not report.rows:
        report.problems.append("no rows")
    if len(report.labels) == 1:
        report.problems.append(f"every label is {next(iter(report.labels))!r}; accuracy on it measures nothing")


def shared_rows(reports: Iterable[FileReport]) -> Iterator[SharedRows]:
    """Pairs of a train file and an evaluation file in the default format that share rows."""
    reports = list(reports)
    for train in (report for report in reports if report.is_train):
        records = list(read_jsonl(train.path))
        prompts = [text_hash(normalise(prompt_and_completion(record)[0])) for record in records]
        for evaluation in (r for r in reports if not r.is_train and in_default_format(r)):
            kinds = Counter(map(evaluation.texts.match, records))
            same = sum(prompt in evaluation.prompts for prompt in prompts) - kinds["exact"] - kinds["normalised"]
            if same or kinds["exact"] or kinds["normalised"]:
                yield SharedRows(train.name, evaluation.name, kinds["exact"], kinds["normalised"], max(same, 0))


def in_default_format(report: FileReport) -> bool:
    return report.identity.get("format", "default") == "default"


def columns(max_length: int) -> dict[str, Callable[[FileReport], str]]:
    """Title of a column -> its cell for a report."""
    return {
        "file": lambda r: r.name,
        "protocol": lambda r: r.identity.get("protocol", "?"),
        "rows": lambda r: f"{r.rows:,}",
        "labels": lambda r: " ".join(f"{label} {n / r.rows:.0%}" for label, n in sorted(r.labels.items())),
        "prompt tokens": lambda r: percentiles(r.prompt_tokens),
        "completion tokens": lambda r: percentiles(r.completion_tokens),
        f"over {max_length}": lambda r: f"{sum(n > max_length for n in r.all_tokens):,}",
    }


def percentiles(counts: list[int]) -> str:
    """Median / 95th percentile / maximum."""
    if not counts:
        return "-"
    median, high = np.percentile(counts, [50, 95])
    return f"{median:.0f} / {high:.0f} / {max(counts)}"
