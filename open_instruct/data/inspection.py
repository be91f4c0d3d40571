"""Inspect formatted files: lengths, labels, repeated ids, rows that train and evaluation files share."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_instruct.common import paths
from open_instruct.common.artifacts import read_sidecar, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.paths import exemplar_file
from open_instruct.data.decontamination import Texts, fingerprint, normalise

if TYPE_CHECKING:
    from tokenizers import Tokenizer


BATCH_ROWS = 1_000


@dataclass
class Report:
    """What was found in one file."""

    path: Path
    identity: Mapping[str, Any]
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    prompt_tokens: list[int] = field(default_factory=list)
    completion_tokens: list[int] = field(default_factory=list)
    all_tokens: list[int] = field(default_factory=list)
    """Of prompt and completion as one text, and EOS."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    texts: Texts = field(default_factory=Texts)
    prompts: set[bytes] = field(default_factory=set)
    """Fingerprints of the normalised prompts."""
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(paths.data_dir()).with_suffix(""))

    @property
    def is_train(self) -> bool:
        return self.path.parent == paths.data_dir()


@dataclass(frozen=True)
class Shared:
    """Train rows that also stand in an evaluation file."""

    train: str
    evaluation: str
    exact: int
    normalised: int
    """But for case and white space, those to the letter not counted."""
    same_prompt: int
    """Only the prompt is the same; the completion is another."""


def look_at(path: Path, tokenizer: "Tokenizer", *, num_samples: int) -> Report:
    """Read a file once, batch by batch."""
    identity = read_sidecar(path)["identity"] if sidecar_path(path).is_file() else {}
    report = Report(path, identity)
    if not identity:
        report.problems.append("no sidecar: unfinished, or not made here; format it again")
    records = read_jsonl(path, required=("dataset", "id"))
    while batch := list(islice(records, BATCH_ROWS)):
        take(report, batch, tokenizer, num_samples)
    add_problems(report)
    return report


def take(report: Report, batch: list[dict[str, Any]], tokenizer: "Tokenizer", num_samples: int) -> None:
    """Add a batch of records to the counts."""
    parts = [parts_of(record) for record in batch]
    counts = [
        [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        for texts in ([p for p, _ in parts], [c for _, c in parts], [p + c for p, c in parts])
    ]
    report.prompt_tokens += counts[0]
    report.completion_tokens += counts[1]
    report.all_tokens += [num_tokens + 1 for num_tokens in counts[2]]
    report.samples += batch[: max(0, num_samples - report.rows)]
    report.rows += len(batch)
    for record, (prompt, completion) in zip(batch, parts, strict=True):
        report.ids[record["id"]] += 1
        report.texts.add(record)
        if prompt.strip():
            report.prompts.add(fingerprint(normalise(prompt)))
        if report.identity.get("kind") == "labels":
            report.labels[completion.strip()] += 1


def parts_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and completion; of a chat what the assistant says, and all else.

    Raises UserError for a record that has neither.
    """
    if "messages" not in record:
        if not {"prompt", "completion"} <= record.keys():
            raise UserError(f"{record['id']}: expected prompt and completion, or messages; found {', '.join(record)}")
        return record["prompt"], record["completion"]
    said = {True: "", False: ""}
    for turn in record["messages"]:
        said[turn["role"] == "assistant"] += turn["content"] + "\n"
    return said[False], said[True]


def add_problems(report: Report) -> None:
    """What makes results from this file wrong."""
    repeated = [name for name, count in report.ids.items() if count > 1]
    if repeated:
        report.problems.append(f"{len(repeated)} ids stand more than once, such as {repeated[0]}")
    if not report.rows:
        report.problems.append("no rows")
    if len(report.labels) == 1:
        report.problems.append(f"every label is {next(iter(report.labels))!r}; accuracy on it measures nothing")
    shots = exemplar_file(report.path)
    if report.identity.get("protocol") == "corrected" and shots.is_file():
        both = [record["id"] for record in read_jsonl(shots, required=("id",)) if report.texts.match(record)]
        if both:
            report.problems.append(f"exemplars that are also evaluated: {', '.join(both)}")


def overlaps(reports: Iterable[Report]) -> Iterator[Shared]:
    """Pairs of a train file and an evaluation file in the format that is trained on that share rows."""
    reports = list(reports)
    for train in (report for report in reports if report.is_train):
        records = list(read_jsonl(train.path))
        for evaluation in reports:
            if evaluation.is_train or not in_default_format(evaluation):
                continue
            kinds = Counter(map(evaluation.texts.match, records))
            prompts = [fingerprint(normalise(parts_of(record)[0])) for record in records]
            same = sum(prompt in evaluation.prompts for prompt in prompts) - kinds["exact"] - kinds["normalised"]
            if same or kinds["exact"] or kinds["normalised"]:
                yield Shared(train.name, evaluation.name, kinds["exact"], kinds["normalised"], max(same, 0))


def in_default_format(report: Report) -> bool:
    return report.identity.get("format", "default") == "default"


def columns(max_length: int) -> dict[str, Any]:
    """Title -> what stands in it for a report."""
    return {
        "file": lambda r: r.name,
        "protocol": lambda r: r.identity.get("protocol", "?"),
        "rows": lambda r: f"{r.rows:,}",
        "labels": lambda r: " ".join(f"{label} {n / r.rows:.0%}" for label, n in sorted(r.labels.items())),
        "prompt tokens": lambda r: spread(r.prompt_tokens),
        "completion tokens": lambda r: spread(r.completion_tokens),
        f"over {max_length}": lambda r: f"{sum(n > max_length for n in r.all_tokens):,}",
    }


def spread(num_tokens: list[int]) -> str:
    """Median, 95th percentile and largest."""
    if not num_tokens:
        return "-"
    median, high = np.percentile(num_tokens, [50, 95])
    return f"{median:.0f} / {high:.0f} / {max(num_tokens)}"
