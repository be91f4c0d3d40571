"""Large simulated inputs for scaling.py: a mirror of the Hub, prediction files, metrics files, outputs of a study."""

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from open_instruct.checkpoints.families import families_like, family_named
from open_instruct.checkpoints.family import MAIN
from open_instruct.checkpoints.hub_listing import ListedRevision, Listing, keep
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.hashing import digest
from open_instruct.common.json_files import write_json, write_jsonl
from open_instruct.common.sidecars import FIELDS, content_hash, sidecar_path
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.tasks import EVAL_SETS

BATCH_ROWS = 10_000
NUM_STEPS = 100
TRAIN_SETS = (None, "xsum", "mnli", "paws", "socialiqa")
# Every checkpoint that Pythia published.
FAMILY = "pythia-410m"
PYTHIA_STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)]
SETS = [one for name, one in EVAL_SETS.items() if name != "gsm8k"][:20]
"""Those of the recorded results, with a set of each train set's own; GSM8K was declared later, before others."""
SUITE = "datadecide-*"
STEPS_APART = 1250
"""Of most of its checkpoints."""
UNDONE_EVERY = 100
"""One job of this many is not recorded as done."""


def nli_rows(num_rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Random text: premises of 20 words and hypotheses of 10 on average, as in MNLI."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5_000)]
    for number in range(num_rows):
        texts = [" ".join(rng.choices(words, k=rng.randint(low, high))) for low, high in ((5, 35), (4, 16))]
        yield {"premise": texts[0], "hypothesis": texts[1], "label": number % 3, "idx": number}


def write_parquet(path: Path, num_rows: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema({"premise": pa.string(), "hypothesis": pa.string(), "label": pa.int64(), "idx": pa.int32()})
    rows = nli_rows(num_rows, seed)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, BATCH_ROWS):
            batch = [next(rows) for _ in range(min(BATCH_ROWS, num_rows - start))]
            writer.write_table(pa.Table.from_pylist(batch, schema))


def write_predictions(path: Path, num_items: int) -> None:
    identity = {"model_id": path.stem, "eval_set": "rte", "format": "default", "protocol": "corrected"}
    identity |= {"kind": "labels", "role": "other", "shots": 0}
    records = []
    for number in range(num_items):
        scores = {"entailment": -1.0, "neutral": -2.0 + number % 3}
        record = {"dataset": "rte", "id": f"rte-{number}", "completion": " neutral", "scores": scores}
        records.append(record | {"output": max(scores, key=scores.__getitem__), "gold_logprob": -float(number % 3)})
    with Artifact(path, {}, identity=identity).making():
        write_jsonl(path, records)


def copy_predictions(first: Path, num_files: int) -> None:
    """Copy a prediction file and its metrics under other names; sidecars contain the names and times of files."""
    contents = {path: path.read_text() for path in first.parent.iterdir() if path.suffix in (".jsonl", ".json")}
    for number in range(1, num_files):
        name = f"rte_{number}"
        for path, text in contents.items():
            copy = path.with_name(path.name.replace(first.stem, name))
            copy.write_text(text.replace(first.stem, name) if path.name.endswith(".meta.json") else text)
            shutil.copystat(path, copy)
        sidecar = sidecar_path(first.with_name(f"{name}.metrics.json"))
        inputs = {"predictions": content_hash(first.with_name(f"{name}.jsonl"))}
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"inputs": inputs}))


def write_metrics(folder: Path, num_sets: int, num_items: int) -> None:
    """Metrics files of 500 models (100 checkpoints, before and after fine-tuning on four sets), by evaluation set."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(max(1, num_sets // (NUM_STEPS * len(TRAIN_SETS)))):
        ids = [f"set{number}_{i}" for i in range(num_items)]
        difficulty = rng.normal(0, 0.1, num_items)
        for step in range(0, NUM_STEPS * 1000, 1000):
            for train_set in TRAIN_SETS:
                model_id = f"ckpt{step}_{train_set or 'base'}"
                values = (0.3 + 0.1 * (train_set is not None) + difficulty + rng.normal(0, 0.1, num_items)).tolist()
                identity = {"model_id": model_id, "family": "olmo1b", "step": step, "tokens": step * 4_194_304}
                recipe = {"epochs": 3, "lr": 2e-6, "seed": 42, "adapter": "full"}
                identity |= {"train_set": train_set, **(recipe if train_set else dict.fromkeys(recipe))}
                identity |= {"eval_set": f"set{number}", "format": "default", "kind": "generation", "role": "other"}
                identity |= {"shots": 0, "protocol": "corrected"}
                mean = {"mean": float(np.mean(values)), "standard_error": 0.02, "ci_low": 0.2, "ci_high": 0.6}
                metrics = {"rouge_l": mean | {"n": num_items}}
                content = {"identity": identity, "primary": "rouge_l", "metrics": metrics}
                path = folder / f"set{number}_{model_id}.metrics.json"
                path.write_text(json.dumps(content | {"items": {"id": ids, "rouge_l": values}}))
                sidecar_path(path).write_text(json.dumps({"identity": identity, "files": {}}))


def write_large_study(folder: Path, num_checkpoints: int, num_items: int) -> int:
    """Metrics files of the study of `write_study`: 46 models a checkpoint on 20 sets; returns their number.

    Fine-tuning gains 0.4 on the set's own task; every model has noise of its own.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    train_sets = ("xsum", "socialiqa", "mnli", "paws", "tulu")
    recipes = [(name, lr, seed) for name in train_sets for lr in (2e-7, 2e-6, 2e-5) for seed in (42, 43, 44)]
    count = 0
    for eval_set in SETS:
        ids = [f"{eval_set.name}_{i}" for i in range(num_items)]
        difficulty = rng.normal(0.3, 0.1, num_items)
        for step in PYTHIA_STEPS[:num_checkpoints]:
            for train_set, lr, seed in [(None, None, None), *recipes]:
                gain = 0.4 * (eval_set.role == f"in-domain of {train_set}")
                values = difficulty + gain + 0.02 * rng.normal() + rng.normal(0, 0.1, num_items)
                model_id = f"ckpt{step}_{train_set or 'base'}_{lr}_{seed}"
                identity = {"model_id": model_id, "family": FAMILY, "step": step, "tokens": (step or 1) * 2_097_152}
                identity |= {"train_set": train_set, "epochs": 3 if train_set else None, "lr": lr, "seed": seed}
                identity |= {"eval_set": eval_set.name, "format": "default", "protocol": "corrected", "shots": 0}
                identity |= {"kind": "generation", "role": eval_set.role}
                mean = {"mean": float(values.mean()), "standard_error": 0.02, "ci_low": 0.2, "ci_high": 0.9}
                content = {"identity": identity, "primary": "rouge_l", "metrics": {"rouge_l": mean | {"n": num_items}}}
                path = folder / f"{eval_set.name}_{model_id}.metrics.json"
                path.write_text(json.dumps(content | {"items": {"id": ids, "rouge_l": values.tolist()}}))
                sidecar_path(path).write_text(json.dumps({"identity": identity, "files": {}}))
                count += 1
    return count


def write_study(folder: Path, num_checkpoints: int) -> Path:
    recipe = {"epochs": 3, "lr": [2e-7, 2e-6, 2e-5], "seeds": [42, 43, 44]}
    study = {"name": "large", "family": FAMILY, "steps": PYTHIA_STEPS[:num_checkpoints]}
    study |= {"train_sets": dict.fromkeys(("xsum", "socialiqa", "mnli", "paws", "tulu"), recipe)}
    study |= {"evaluation": {one.name: {} for one in SETS}}
    for eval_set in EVAL_SETS.values():
        if eval_set.split.llmbar:  # a plan needs the user's files
            file = folder / "data" / "llmbar" / f"{eval_set.split.llmbar}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("[]")
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def write_listings(num_models: int) -> tuple[Path, int]:
    """Made-up listings of every checkpoint of every run, and a study of them all; returns it, and their number."""
    chosen, num_checkpoints = families_like(SUITE)[:num_models], 0
    for name in chosen:
        family = family_named(name)
        last = family.last_step or 0
        steps = (*range(0, last, STEPS_APART), last)
        names = [MAIN, *(f"step{step}-seed-{one}" for one in family.runs for step in steps)]
        revisions = tuple(ListedRevision(name, digest([family.name, name])) for name in names)
        keep(Listing(str(family.hub), "2026-11-28 12:00", revisions))
        num_checkpoints += len(names)
    study = {"name": "suites", "families": {name: {"steps": "all", "runs": "all"} for name in chosen}}
    study |= {"evaluation": {"heldout_text": {"limit": 100}}}
    path = paths.base_dir() / "suites.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path, num_checkpoints


def write_outputs(jobs: Sequence[Job]) -> None:
    """Write the outputs and sidecars of all jobs, tiny, and record most jobs as done."""
    for job in jobs:
        if job.stage == "format":
            continue  # the plan compares formatted files with their declarations
        for path in job.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.write_text("{}\n")
            else:
                path.mkdir()
                (path / "model.safetensors").write_text(str(path))
            model_id = f"{FAMILY}_{path.name}" if job.stage == "download" else job.name
            files = {} if path.suffix else {"model.safetensors": {"sha256": "", "bytes": 0, "mtime_ns": 0}}
            fields = {field: {} for field in sorted(FIELDS)} | {"identity": {"model_id": model_id}, "files": files}
            sidecar_path(path).write_text(json.dumps(fields))
    cache = JobCache()
    cache.folder.mkdir(parents=True)
    for number, job in enumerate(jobs):
        if number % UNDONE_EVERY:
            # Contents are not hashed: signatures suffice to recognise a job, and hashing would take minutes.
            write_json(cache.path(job), {"content": "", "signature": cache.signature(job), "seconds": 60.0})
