"""One study over every public suite of checkpoints: from revisions in their real naming to verdicts over runs."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import toy_suites
import yaml
from loopback_hub import LoopbackHub
from toy_study import SCRIPT

from open_instruct import download_olmo_ckpts
from open_instruct.checkpoints.families import family_named
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.config import STAGES

pytestmark = [pytest.mark.slow, pytest.mark.olmo]
DATADECIDE, PYTHIA = "datadecide-c4-4M", "pythia-14m"
FAMILIES: dict[str, Any] = {
    DATADECIDE: {"steps": [1250], "runs": "all"},
    PYTHIA: {"tokens": ["1B", "100B"], "runs": ["main", "seed1", "seed2"]},
    "olmo2_1b": {"steps": [140_000], "stages": {"stage2": {"tokens": ["4.05T"], "runs": "all"}}},
    "olmo3_7b": {"steps": [1_000_000], "stages": {"stage2": {"steps": [47_684]}}},
    "smollm2_135*": [240_000],
    "smollm3_3b": [40_000],
    "olmo1b_hf": {"tokens": ["84B"]},
    "amber": [10],
}
LISTED = (*(name for name in FAMILIES if "*" not in name), "smollm2_135M")
MODELS = [
    *((DATADECIDE, "", run, 1250, 1250 * 65_536) for run in ("default", *toy_suites.AUXILIARY)),
    *((PYTHIA, "", run, step, step * 2_097_152) for run in ("", "seed1", "seed2") for step in (512, 48_000)),
    ("olmo2_1b", "", "", 140_000, 140_000 * 2_097_152),
    *(("olmo2_1b", "stage2", run, 23_852, (1_907_359 + 23_852) * 2_097_152) for run in toy_suites.INGREDIENTS),
    ("olmo3_7b", "", "", 1_000_000, 1_000_000 * 4_194_304),
    ("olmo3_7b", "stage2", "", 47_684, 1_413_814 * 4_194_304 + 47_684 * 2_097_152),
    ("smollm2_135M", "", "", 240_000, 240_000 * 1_048_576),
    ("smollm3_3b", "", "", 40_000, 40_000 * 2_359_296),
    ("olmo1b_hf", "", "", 20_000, 20_000 * 4_194_304),
    ("amber", "", "", 10, 11 * 3_500_000_000),
]
"""Family, stage, run, step and tokens over all stages of every checkpoint of the study."""
STUDY = {
    "name": "suites",
    "families": FAMILIES,
    "datasets": {
        "tickets": {
            "train": "tickets.jsonl",
            "test": "tickets_test.jsonl",
            "prompt": "### Ticket: {text}\n ### Topic:",
            "fields": {"text": "body", "label": "topic"},
            "labels": ["billing", "delivery"],
        }
    },
    "train_sets": {"tickets": {"epochs": 2, "lr": 1e-2, "max_seq_length": 128, "mixed_precision": "no"}},
    "evaluation": {"tickets": {}},
    "primary": {"question": "fine-tuning gain", "family": "olmo2_1b stage2", "metric": "bits_per_byte"},
}


def start(base_dir: Path) -> Path:
    """Write the study and its data.  -> the study file"""
    for name, number in (("tickets.jsonl", 48), ("tickets_test.jsonl", 24)):
        topics = [("delivery", "billing")[n % 2] for n in range(number)]
        rows = [{"body": f"{name} {n}: where is my {topic}?", "topic": topic} for n, topic in enumerate(topics)]
        (base_dir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (base_dir / "suites.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return base_dir / "suites.yaml"


def run(hub: LoopbackHub, study_file: Path, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(study_file), *options],
        env=toy_suites.environment(hub, study_file.parent),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def list_of(hub: LoopbackHub, base_dir: Path, family: str) -> str:
    """What --list prints; it leaves the listing that the study chooses from."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("base_dir", str(base_dir))
        hub.point_clients_here(patch, base_dir / "cache")
        download_olmo_ckpts.main(download_olmo_ckpts.Args(family=family, list=True))
    return printed.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str]]]:
    """base_dir of the study, run up to its report; and the lists of the families, by name."""
    base_dir = tmp_path_factory.mktemp("suites")
    with LoopbackHub() as hub:
        toy_suites.publish(hub, base_dir / "published")
        lists = {family: list_of(hub, base_dir, family) for family in LISTED}
        stages = [stage for stage in STAGES if stage not in ("pretrain", "suite", "notebook")]
        run(hub, start(base_dir), "--only", *stages)
        yield base_dir, lists


def rows_of(base_dir: Path, table: str) -> list[dict[str, str]]:
    with (base_dir / "results" / "suites" / table).open() as file:
        return list(csv.DictReader(file))


def test_every_family_is_listed_and_what_is_odd_about_it_is_named(finished):
    _, lists = finished
    for family, text in lists.items():
        repositories = family_named(family).repositories
        is_there = [one for one in repositories if one in toy_suites.CHOSEN]
        number = sum(toy_suites.number_of(one) for one in is_there)
        number += sum(one not in toy_suites.WITHOUT_MAIN for one in is_there if family_named(family).has_main)
        assert f"{number} checkpoints of {family}, listed 20" in text, text[-2000:]
        for one in is_there:
            assert f"{one}: left out" in text
    assert "stops at" not in lists["smollm3_3b"] + lists["olmo2_1b"] + lists["olmo3_7b"]
    for run_name in toy_suites.AUXILIARY:
        assert f"run {run_name} stops at step 1375, of 5725" in lists[DATADECIDE]
    assert "run small-aux-3 lacks 1 step(s) that other runs have: 250" in lists[DATADECIDE]
    for number in range(3, 10):
        assert f"EleutherAI/pythia-14m-seed{number}: no such repository" in lists[PYTHIA]


def test_every_checkpoint_has_its_identity_in_the_tables(finished):
    base_dir, _ = finished
    rows = [row for row in rows_of(base_dir, "all_perf_table.csv") if row["metric"] == "bits_per_byte"]
    for train_set in ("", "tickets"):
        found = [tuple(r[n] for n in ("family", "stage", "run", "step")) for r in rows if r["train_set"] == train_set]
        tokens = [int(float(row["tokens"])) for row in rows if row["train_set"] == train_set]
        # A later stage, which counts its own steps, is a family of its own.
        named = [(f"{family} {stage}".strip(), stage, run, str(step)) for family, stage, run, step, _ in MODELS]
        expected = [(*one, model[-1]) for one, model in zip(named, MODELS, strict=True)]
        assert sorted((*one, seen) for one, seen in zip(found, tokens, strict=True)) == sorted(expected)
    assert rows_of(base_dir, "missing.csv") == []


def test_datadecides_layout_was_converted_and_verified(finished):
    base_dir, _ = finished
    for run_name in ("default", *toy_suites.AUXILIARY):
        converted = base_dir / "output" / f"{DATADECIDE}_{run_name}_tf_ckpts" / "checkpoint-1250"
        measured = read_sidecar(converted)["verification"]
        assert measured["max_abs_difference"] <= measured["tolerance"]
        assert read_json(converted / "config.json")["model_type"] == "llama"


def test_claims_are_judged_over_three_runs_where_a_family_has_three(finished):
    base_dir, _ = finished
    findings = [row for row in rows_of(base_dir, "findings.csv") if row["question"] == "fine-tuning gain"]
    found = {(row["series"], row["checkpoint"]): row for row in findings if row["metric"] == "bits_per_byte"}
    over_runs = {(DATADECIDE, "1250"), (PYTHIA, "512"), (PYTHIA, "48000"), ("olmo2_1b stage2", "23852")}
    alone = {("olmo2_1b", "140000"), ("olmo3_7b", "1000000"), ("olmo3_7b stage2", "47684"), ("smollm3_3b", "40000")}
    alone |= {("smollm2_135M", "240000"), ("olmo1b_hf", "20000"), ("amber", "10")}
    assert found.keys() == {(f"{family} tickets", step) for family, step in over_runs | alone}
    for family, step in over_runs:
        row = found[f"{family} tickets", step]
        assert (row["replicates"], row["unit"], row["verdict"]) == ("3", "pre-training run", "supported")
        assert "over 3 pre-training runs and 24 independent items" in row["sentence"]
    assert [row["series"] for row in findings if row["is_primary"] == "True"] == ["olmo2_1b stage2 tickets"]
    for family, step in alone:
        row = found[f"{family} tickets", step]
        assert (row["replicates"], row["verdict"]) == ("1", "described")
