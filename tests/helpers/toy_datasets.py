"""Small copies of every dataset of the paper and its suite, with the real columns, on a loopback Hub or on disk."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Value
from loopback_hub import LoopbackHub

from open_instruct.tasks import EVAL_SETS, TRAIN_SETS
from open_instruct.tasks.declarations import Split

NUM_ROWS = 40
Row = dict[str, Any]


def sentences(one: str, two: str, label: Callable[[int], Any], number: str = "idx") -> Callable[[str, int], Row]:
    return lambda split, i: {
        one: f"The {split} cat {i} sat.",
        two: f"A {split} cat {i} was sitting.",
        "label": label(i),
        number: i,
    }


# (dataset, pattern of its files) -> function from the name of a split and an index to a row.
ROWS: dict[tuple[str, str], Callable[[str, int], Row]] = {
    ("EdinburghNLP/xsum", "*"): lambda s, i: {
        "document": f"Report {i} of {s}.\nIt rained in town {i}.",
        "summary": f"Rain fell on town {i}.",
        "id": f"{i}",
    },
    ("csebuetnlp/xlsum", "*"): lambda s, i: {
        "id": f"uk-{i}",
        "url": "https://example.org",
        "title": f"Title {i}",
        "summary": f"Snow fell on town {i}.",
        "text": f"Report {i} of {s}. It snowed.",
    },
    ("abisee/cnn_dailymail", "*"): lambda s, i: {
        "article": f"(CNN) -- Event {i} of {s} took place.",
        "highlights": f"Event {i} .\nIt took place .",
        "id": f"{i}",
    },
    ("allenai/social_i_qa", "*"): lambda s, i: {
        "context": f"Jo ran {i} miles in {s}.",
        "question": f"Why did Jo run {i} miles?",
        "answerA": "fast",
        "answerB": "far",
        "answerC": f"home {i}",
        "label": "1",
    },
    ("allenai/sciq", "*"): lambda s, i: {
        "question": f"What is {i}?",
        "distractor3": "gas",
        "distractor1": "rock",
        "distractor2": "sand",
        "correct_answer": f"water {i}",
        "support": f"Water {i} in {s} is wet.",
    },
    ("openai/gsm8k", "*"): lambda s, i: {
        "question": f"Jo has {i} {s} cats and gets 1,000. How many has she?",
        "answer": f"She has {i} + 1000 = <<{i}+1000={i + 1000}>>{i + 1000} cats.\n#### {i + 1000:,}",
    },
    ("ucsbnlp/tweet_qa", "*"): lambda s, i: {
        "Question": f"who won game {i}?",
        "Answer": [f"team {i}", "they"],
        "Tweet": f"Team {i} wins {s}! @x",
        "qid": f"{i}",
    },
    ("nyu-mll/glue", "mnli/*"): sentences("premise", "hypothesis", lambda i: i % 3),
    ("nyu-mll/glue", "qqp/*"): sentences("question1", "question2", lambda i: i % 2),
    ("nyu-mll/glue", "stsb/*"): sentences("sentence1", "sentence2", lambda i: i / 8),
    ("nyu-mll/glue", "*"): sentences("sentence1", "sentence2", lambda i: i % 2),
    ("pietrolesci/gpt3_nli", "*"): sentences("text_a", "text_b", lambda i: i % 3),
    ("google-research-datasets/paws", "*"): sentences("sentence1", "sentence2", lambda i: i % 2, "id"),
    ("SetFit/qqp", "*"): sentences("text1", "text2", lambda i: -1),
    ("SetFit/stsb", "*"): sentences("text1", "text2", lambda i: -1),
    ("allenai/tulu-v2-sft-mixture", "*"): lambda s, i: {
        "dataset": "flan_v2",
        "id": f"flan_{i}",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {i} + 1?"},
            {"role": "assistant", "content": f"It is {i + 1}."},
        ],
    },
    # Of the suite.
    ("allenai/ai2_arc", "*"): lambda s, i: {
        "id": f"{s} {i}",
        "question": f"Which is number {i}?",
        "choices": {"text": ["one", "two", f"{i}"], "label": ["A", "B", "C"]},
        "answerKey": "C",
    },
    ("aps/super_glue", "boolq/*"): lambda s, i: {
        "question": f"is cat {i} wet",
        "passage": f"Cat {i} of {s} -- It is {i % 2 * 'not '}wet.",
        "idx": i,
        "label": i % 2,
    },
    ("Rowan/hellaswag", "*"): lambda s, i: {
        "ind": i,
        "activity_label": "Running",
        "ctx_a": f"Jo runs in {s}.",
        "ctx_b": "then jo",
        "ctx": f"Jo runs in {s}. then jo",
        "endings": ["stops.", "eats.", "sleeps.", f"runs {i} miles."],
        "source_id": f"activitynet~v_{i}",
        "split": s,
        "split_type": "indomain",
        "label": "3",
    },
    ("allenai/openbookqa", "*"): lambda s, i: {
        "id": f"{s} {i}",
        "question_stem": f"Water {i} is",
        "choices": {"text": ["dry", "wet"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    ("cais/mmlu", "*"): lambda s, i: {
        "question": f"What is {i} of {s}?",
        "subject": s.split()[0],
        "choices": ["one", "two", "three", f"{i}"],
        "answer": 3,
    },
}

NUMBERS = {"idx": Value("int32"), "id": Value("int32")}
# Types of the real files that Arrow would not infer; ClassLabel is written as metadata, as in the Hub's files.
TYPES: dict[tuple[str, str], dict[str, Any]] = {
    ("nyu-mll/glue", "mnli/*"): NUMBERS | {"label": ClassLabel(names=["entailment", "neutral", "contradiction"])},
    ("nyu-mll/glue", "rte/*"): NUMBERS | {"label": ClassLabel(names=["entailment", "not_entailment"])},
    ("nyu-mll/glue", "mrpc/*"): NUMBERS | {"label": ClassLabel(names=["not_equivalent", "equivalent"])},
    ("nyu-mll/glue", "qqp/*"): NUMBERS | {"label": ClassLabel(names=["not_duplicate", "duplicate"])},
    ("nyu-mll/glue", "stsb/*"): NUMBERS | {"label": Value("float32")},
    ("google-research-datasets/paws", "*"): NUMBERS | {"label": ClassLabel(names=["0", "1"])},
}


def splits() -> dict[tuple[str, str], Split]:
    """Every split on the Hub that a task declares, each once."""
    every = [split for train_set in TRAIN_SETS.values() for split in train_set.splits]
    every += [s for e in EVAL_SETS.values() for s in (e.split, e.paper_split, e.exemplars) if s]
    return {(str(split.hub), split.files): split for split in every if split.hub}


def rows(split: Split, num_rows: int = NUM_ROWS) -> list[Row]:
    name = split.files.partition("-*")[0].partition("/*")[0].removesuffix(".jsonl").replace("/", " ")
    make = next(make for (hub, files), make in ROWS.items() if hub == split.hub and fnmatch(split.files, files))
    return [make(name, i) for i in range(num_rows)]


def files(split: Split, num_rows: int = NUM_ROWS) -> Iterator[tuple[str, bytes]]:
    """The files of a small copy: two Parquet files of several row groups, or JSON lines."""
    of_split = rows(split, num_rows)
    if split.files.endswith(".jsonl"):
        yield split.files, json_lines(of_split)
        return
    half = len(of_split) // 2 + 1
    for number, part in enumerate((of_split[:half], of_split[half:])):
        yield split.files.replace("*", f"0000{number}-of-00002"), parquet(part, types_of(split))


def types_of(split: Split) -> dict[str, Any]:
    return next((t for (hub, files), t in TYPES.items() if hub == split.hub and fnmatch(split.files, files)), {})


def parquet(of_split: list[Row], types: dict[str, Any] | None = None) -> bytes:
    found = Features.from_arrow_schema(pa.Table.from_pylist(of_split).schema)
    features = Features({name: (types or {}).get(name, feature) for name, feature in found.items()})
    file = io.BytesIO()
    row_group_size = max(7, len(of_split) // 10)
    pq.write_table(pa.Table.from_pylist(of_split, features.arrow_schema), file, row_group_size=row_group_size)
    return file.getvalue()


def json_lines(of_split: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in of_split).encode()


def fill_hub(hub: LoopbackHub) -> None:
    """Add every split that an evaluation or train set declares."""
    for split in splits().values():
        add_split(hub, split)


def add_split(hub: LoopbackHub, split: Split, num_rows: int = NUM_ROWS) -> None:
    """Add a split at its pinned revision."""
    is_commit = len(split.revision) == 40
    hub.add(
        "dataset",
        str(split.hub),
        dict(files(split, num_rows)),
        ref="main" if is_commit else split.revision,
        commit_id=split.revision if is_commit else None,
    )


def fill_mirror(folder: Path, *, as_json_lines: bool = False, gzipped: bool = False) -> None:
    """Write every split to `folder`, laid out as by `hf download --local-dir`, or as JSON lines."""
    for split in splits().values():
        content = dict(files(split))
        if as_json_lines:
            name = split.files.replace("-*.parquet", ".jsonl").replace("/*.parquet", ".jsonl")
            lines = json_lines(rows(split))
            content = {f"{name}.gz": gzip.compress(lines)} if gzipped else {name: lines}
        for name, data in content.items():
            path = folder / str(split.hub) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def fill_llmbar(folder: Path, num_rows: dict[str, int]) -> None:
    """Write LLMBar's files; output 2 is better in every second row."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in num_rows.items():
        items = [
            {"input": f"{name}: count to {i}.", "output_1": f"{i}", "output_2": "one", "label": 1 + i % 2}
            for i in range(size)
        ]
        (folder / f"{name}.json").write_text(json.dumps(items))
