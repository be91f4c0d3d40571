"""docs/own_study.md to the letter: three models in read-only folders, on a JSON lines file, here and on Slurm."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_own_models import MODELS, own_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from open_instruct.common.paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "own_study.md").read_text()
FAMILIES, STUDY = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "finetune:" not in block]
(EXAMPLES,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^    python (scripts/run_study\.py tickets\.yaml.*)$", PAGE, re.MULTILINE)
TABLES = ("all_perf_table.csv", "official_eval_table.csv", "paired_differences.csv", "findings.csv", "missing.csv")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """a/checkpoint-1000, b/checkpoint-1000 and c/checkpoint-1000, which nobody may write in."""
    folder = tmp_path_factory.mktemp("somebody's models")
    for run, architecture in zip("abc", MODELS, strict=True):
        own_model(folder / run / "checkpoint-1000", architecture)
    for path in (*folder.rglob("*"), folder):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


def start(base_dir: Path, models: Path) -> Path:
    """Write the files of the page into base_dir.  -> the study file"""
    base_dir.mkdir(exist_ok=True)
    (base_dir / "families.yaml").write_text(FAMILIES.replace("/path/to", str(models)))
    rows = [json.loads(line) for line in EXAMPLES.splitlines()]
    for name, number in (("tickets.jsonl", 60), ("tickets_test.jsonl", 24)):
        lines = [row | {"body": f"{name} {i}: {row['body']}"} for i, row in enumerate(rows * (number // 2))]
        (base_dir / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (base_dir / "tickets.yaml").write_text(STUDY)
    return base_dir / "tickets.yaml"


def run(command: str, study_file: Path, *options: str, **environment: str) -> str:
    words = [str(study_file) if word == "tickets.yaml" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, *words, *options],
        cwd=REPOSITORY,
        env=os.environ | environment | {"base_dir": str(study_file.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models) -> Path:
    """base_dir of the study, run by the commands of the page, one thread a job."""
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*")}
    study_file = start(tmp_path_factory.mktemp("own"), models)
    outputs = [run(command, study_file, *(["--num_parallel", str(os.cpu_count())])) for command in COMMANDS]
    assert "3 base models, 6 fine-tuned ones" in outputs[0]
    assert re.search(r"notebook +1 +1 ", outputs[-1])
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*")} == before
    return study_file.parent


def rows_of(base_dir: Path, table: str) -> list[dict[str, str]]:
    with (base_dir / "results" / "tickets" / table).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_model_has_its_place_in_the_tables(finished):
    rows = [row for row in rows_of(finished, "all_perf_table.csv") if row["eval_set"] == "tickets"]
    accuracies = [row for row in rows if row["metric"] == "accuracy"]
    places = {(row["run"], row["train_set"], row["rows"], row["shots"]) for row in accuracies}
    tuned = [("tickets", "16"), ("tickets", "")]
    assert places == {(r, *t, s) for r in "abc" for t in [("", ""), *tuned] for s in ("0", "2")}
    assert len(accuracies) == len(places)
    assert rows_of(finished, "missing.csv") == []
    for row in accuracies:
        predictions = finished / row["source"].replace(".metrics.json", ".jsonl")
        records = [json.loads(line) for line in predictions.open()]
        is_right = [record["output"].strip() == record["completion"].strip() for record in records]
        assert float(row["Performance"]) == pytest.approx(sum(is_right) / len(is_right))
    # A model is compared with the base model of its own run.
    changes = [row for row in rows_of(finished, "paired_differences.csv") if row["comparison"] == "fine-tuned - base"]
    assert {(row["series"].split()[1], row["reference"].split()[1]) for row in changes} == {(r, r) for r in "abc"}


@pytest.mark.slow
@pytest.mark.parametrize("run_name", "abc")
def test_log_likelihoods_are_those_of_the_users_own_model(finished, models, run_name):
    folder = models / run_name / "checkpoint-1000"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    (predictions,) = (finished / "output" / "predictions").glob(f"heldout_text_my_models_{run_name}_checkpoint-*.jsonl")
    for record in [json.loads(line) for line in predictions.open()][:3]:
        # Plain text is scored after EOS, the start of a document.
        ids = [tokenizer.eos_token_id, *tokenizer(record["completion"], add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = log_probs[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).sum().item()
        assert record["gold_logprob"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.slurm
def test_the_study_on_slurm_has_the_same_tables(finished, models, tmp_path, slurm):
    study_file = start(tmp_path / "on slurm", models)
    slurm_environment = slurm.environment | {"OMP_NUM_THREADS": "1"}
    run(COMMANDS[1], study_file, "--executor", "slurm", **slurm_environment)
    watch = ("--watch", "--interval_seconds", "2")
    run(COMMANDS[1], study_file, "--executor", "slurm", *watch, **slurm_environment)
    for table in TABLES:
        assert (study_file.parent / "results" / "tickets" / table).read_bytes() == (
            finished / "results" / "tickets" / table
        ).read_bytes()
