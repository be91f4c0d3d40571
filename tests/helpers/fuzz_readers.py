"""What the files of the fuzz say, read independently of the project, and what a run on them should give."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import yaml
from fuzzing import run_script

from analysis.tables.columns import PERFORMANCE_COLUMNS

NLI = "### Input_1: {}\n ### Input_2: {}\n ### Inference:"
RESULTS = "base/results/released"
NUM_ROWS = {"copa": 100, "piqa": 1838}
MODEL_ID = "olmo1b_checkpoint-{}_original_hf_4shots"
RELEASED = ",model_id,eval dataset,Performance,std\n" + "".join(
    f"{i},{MODEL_ID.format(step)},{name},0.{i + 3},0.00{i + 1}\n"
    for i, (step, name) in enumerate([(1000, "rte"), (1000, "xsum"), (18000, "rte"), (18000, "xsum_instruct")])
)


def to_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def writes(files: dict[str, bytes]) -> Callable[[Path], None]:
    def others(home: Path) -> None:
        for name, content in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(content)

    return others


def read_lines(content: bytes, comment: str | None = None) -> list[dict[str, Any]]:
    lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    return [json.loads(line) for line in lines if comment is None or not line.startswith(comment)]


def is_text(*values: Any) -> bool:
    return all(isinstance(value, str) and value.encode() is not None for value in values)


def num_records(content: bytes) -> int:
    """Of a train file, each with text to train on."""
    records = read_lines(content)
    for record in records:
        if "messages" in record:
            assert all(is_text(turn["role"], turn["content"]) for turn in record["messages"])
            assert any(turn["role"] == "assistant" and turn["content"].strip() for turn in record["messages"])
        else:
            assert is_text(record["prompt"], record["completion"])
            assert record["completion"].strip()
    return len(records)


def rows_trained(home: Path, _: str) -> int:
    sidecar = json.loads((home / "base/out/meta.json").read_text())
    assert math.isfinite(sidecar["final"]["loss"])
    return sidecar["rows"]


def evaluated(content: bytes) -> list[str]:
    """The records of an evaluation file, which are those of the prediction file too."""
    records = read_lines(content)
    assert all(is_text(record["prompt"], record["completion"]) and record["completion"].strip() for record in records)
    ids = [record["id"] for record in records]
    assert all(isinstance(one, str | int) and not isinstance(one, bool) for one in ids)
    assert len(set(ids)) == len(ids)
    return [json.dumps(record) for record in records]


def exemplars(content: bytes) -> list[str]:
    records = read_lines(content)
    assert all(is_text(record["prompt"], record["completion"]) for record in records)
    return [json.dumps(record) for record in records]


def predicted(home: Path, _: str) -> list[str]:
    records = read_lines((home / "out.jsonl").read_bytes())
    added = ("output", "gold_logprob", "finished", "scores")
    assert all(is_text(record["output"]) and math.isfinite(record["gold_logprob"]) for record in records)
    return [json.dumps({key: value for key, value in record.items() if key not in added}) for record in records]


def gold_and_output(content: bytes) -> tuple[list[Any], float | None]:
    """Ids, and of labels the accuracy."""
    records = read_lines(content)
    assert all(is_text(record["completion"], record["output"]) for record in records)
    ids = [record["id"] for record in records]
    assert len(set(ids)) == len(ids)
    is_right = [record["output"].strip() == record["completion"].strip() for record in records]
    return ids, sum(is_right) / len(is_right) if "scores" in records[0] else None


def scored(home: Path, _: str) -> tuple[list[Any], float | None]:
    [file] = (home / "base").glob("*.metrics.json")
    content = json.loads(file.read_text())
    accuracy = content["metrics"].get("accuracy")
    return content["items"]["id"], accuracy and accuracy["mean"]


def formatted(path: Path) -> list[tuple[str, str]]:
    return [(record["prompt"], record["completion"]) for record in read_lines(path.read_bytes())]


def cell(value: Any) -> str:
    """The text of a column: a number as text, nothing for a missing value."""
    if value is None or value != value:
        return ""
    assert isinstance(value, str | int | float)
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def nli_prompts(content: bytes) -> list[tuple[str, str]]:
    labels = (" entailment", " neutral")
    rows = read_lines(content)
    assert not any(isinstance(row["label"], bool) for row in rows)
    return [(NLI.format(cell(r["sentence1"]), cell(r["sentence2"])), dict(enumerate(labels))[r["label"]]) for r in rows]


def chats_in(content: bytes) -> set[str]:
    found = set()
    for record in read_lines(content):
        assert isinstance(record["messages"], list)
        turns = [(turn["role"], turn["content"]) for turn in record["messages"]]
        assert all(is_text(*turn) and turn[1].strip() for turn in turns)
        assert any(role == "assistant" for role, _ in turns)
        found.add(json.dumps(turns))
    return found


def ticket_prompts(declared: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    entry = declared["tickets"]
    labels = {str(key): str(value) for key, value in entry["labels"].items()}
    found = []
    for row in rows:
        values = {name: cell(row[column]) for name, column in entry["fields"].items() if name != "label"}
        label = row[entry["fields"]["label"]]
        label = int(label) if isinstance(label, float) and label.is_integer() else label
        found.append((entry["prompt"].format(**values).strip(), f" {labels[cell(label)]}"))
    return found


def study_size(content: bytes) -> str:
    study = yaml.safe_load(content)

    def number(value: Any) -> int:
        return len(value) if isinstance(value, list) else 1

    num_base = number(study["steps"])
    shared = study.get("finetune") or {}
    tuned = 0
    for recipe in (study.get("train_sets") or {}).values():
        of_recipe = shared | (recipe or {})
        keys = ("rows", "epochs", "lr", "batch_size", "adapter", "seeds")
        tuned += math.prod(number(of_recipe[key]) for key in keys if of_recipe.get(key) not in (None, []))
    runs = number((study.get("pretrain") or {}).get("seeds", 1))
    return f"study {study['name']}: {runs} pre-training run, {num_base} base models, {num_base * tuned} fine-tuned ones"


def suite_metrics(home: Path, _: str) -> list[tuple[str, int]]:
    metrics = json.loads((home / "metrics.json").read_text())["metrics"]
    return sorted((one["task"], one["num_instances"]) for one in metrics)


def suite_expected(options: list[dict[str, Any]]) -> list[tuple[str, int]]:
    found = []
    for one in options:
        names = one.get("name", one.get("task", one.get("tasks")))
        [limit] = one["limit"] if isinstance(one["limit"], list) else [one["limit"]]
        names = names if isinstance(names, list) else [names]
        found += [(name, NUM_ROWS[name] if limit is None else min(int(limit), NUM_ROWS[name])) for name in names]
    return sorted(found)


def steps_listed(home: Path, printed: str) -> list[int]:
    words = [line.split() for line in printed.splitlines() if "https://" in line]
    return [int(first) for first, *_ in words if first.isdigit()]


def steps_in(content: bytes) -> list[int]:
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    cells = [{(name or "").strip().lower(): (value or "") for name, value in row.items() if name} for row in rows]
    steps = {int(row["step"]): row["checkpoint directory"].strip().rstrip("/") for row in cells}
    # Those at other paths are of other families.
    of_family = r"/ai2-llm/olmo-small/[A-Za-z0-9_.-]+/step{}-unsharded"
    return sorted(step for step, url in steps.items() if re.fullmatch(of_family.format(step), urlsplit(url).path))


def write_results(home: Path) -> None:
    """The results folder of other tables."""
    (home / RESULTS).mkdir(parents=True)
    for name, content in made_tables().items():
        (home / RESULTS / name).write_bytes(content)


@cache
def made_tables() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "base").mkdir()
        (home / "tables").mkdir()
        (home / "tables/all_perf_table.csv").write_text(RELEASED)
        assert run_script("analysis.produce_tables --released tables", home)[0] == 0
        return {path.name: path.read_bytes() for path in (home / RESULTS).iterdir() if path.is_file()}


def own_table() -> bytes:
    """Scores in the columns of this project, without those of other columns."""
    about = {"family": "olmo1b", "setting": "rte", "eval_set": "rte", "eval dataset": "rte", "series": "base"}
    about |= {"metric": "accuracy", "kind": "labels", "role": "other", "format": "default", "protocol": "corrected"}
    rows = [
        about | {"model_id": f"checkpoint-{step}", "step": step, "checkpoint": step, "Performance": score, "std": 0.01}
        for step, score in ((1000, 0.3), (18000, 0.5), (342000, 0.7))
    ]
    file = io.StringIO()
    table = csv.DictWriter(file, PERFORMANCE_COLUMNS, lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


def has_scores(content: bytes) -> bool:
    return all(math.isfinite(float(score)) for _, score in scores_in(content))


def num_judged(content: bytes) -> int:
    rows = json.loads(content.decode("utf-8-sig"))
    assert all(cell(row[name]) is not None for row in rows for name in ("input", "output_1", "output_2"))
    assert all(row["label"] in (1, 2) and not isinstance(row["label"], bool) for row in rows)
    return len(rows)


def released_scores(home: Path, _: str) -> list[tuple[str, float]]:
    rows = csv.DictReader((home / "base/results/released/all_perf_table.csv").open())
    return sorted((row["model_id"], round(float(row["Performance"]), 5)) for row in rows)


def scores_in(content: bytes) -> list[tuple[str, float]]:
    rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    return sorted((row["model_id"], round(float(row["Performance"]), 5)) for row in rows if any(row.values()))
