"""The plan of a study, and the whole study on a two-layer model: killed, run again, finished, skipped."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_study import SCRIPT, TOY

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


def test_every_job_reads_what_an_earlier_one_writes(study_file):
    jobs = plan(load_study(study_file), study_file)
    made: set[Path] = set()
    for job in jobs:
        assert all(path in made or path.exists() for path in job.inputs), job.key
        assert not made & set(job.outputs), f"{job.key} writes what another job writes"
        made |= set(job.outputs)
    # 2 checkpoints, each as it is and tuned once: 4 models.
    stages = [job.stage for job in jobs]
    assert {s: stages.count(s) for s in stages} == {
        "pretrain": 1,
        "format": 1,
        "convert": 2,
        "finetune": 2,
        "predict": 4,
        "score": 4,
        "suite": 4,
        "report": 1,
        "notebook": 1,
    }


def test_checkpoints_of_the_hub_are_downloaded_unless_they_were_put_there(study_file, base_dir):
    study = TOY | {"family": "olmo1b", "steps": [1000, 2000]}
    del study["pretrain"]
    study_file.write_text(yaml.safe_dump(study))
    by_hand = base_dir / "output" / "olmo1b_ckpts" / "checkpoint-1000"
    by_hand.mkdir(parents=True)
    (by_hand / "model.pt").touch()
    (download,) = [job for job in plan(load_study(study_file), study_file) if job.stage == "download"]
    assert "2000" in download.command
    assert by_hand not in download.outputs


def test_a_job_is_the_same_in_two_studies_where_its_work_is_the_same(study_file):
    def ids(**changes):
        study_file.write_text(yaml.safe_dump(TOY | changes))
        return {job.key: job.id for job in plan(load_study(study_file), study_file)}

    one = ids()
    other = ids(train_sets={"socialiqa": TOY["train_sets"]["socialiqa"] | {"rows": 8}})
    same = {key for key in one if one[key] == other[key]}
    assert {key.split(".")[0] for key in set(one) - same} == {"finetune"}


def test_a_few_shot_round_asks_only_what_takes_examples(study_file):
    study_file.write_text(yaml.safe_dump(TOY | {"shots": [0, 2]}))
    jobs = plan(load_study(study_file), study_file)
    asked = {job.name: {path.name for path in job.inputs[1:]} for job in jobs if job.stage == "predict"}
    assert "heldout_text.jsonl" in asked["tiny_checkpoint-4_0shots"]
    shots = {"socialiqa.jsonl", "socialiqa_instruct.jsonl", "rte.jsonl"}
    assert asked["tiny_checkpoint-4_2shots"] == shots | {name.replace(".jsonl", ".exemplars.jsonl") for name in shots}
    (formatting,) = [job for job in jobs if job.stage == "format"]
    assert {path.name for path in formatting.outputs} >= asked["tiny_checkpoint-4_2shots"]


def test_studies_in_the_repository_are_valid():
    for path in sorted((paths.REPOSITORY / "scripts" / "studies").glob("*.yaml")):
        assert load_study(path).name == path.stem


def start(study_file: Path, *options: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(study_file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time and bytes of every file below, logs and locks aside."""
    files = (p for p in folder.rglob("*") if p.is_file() and "logs" not in p.parts and p.suffix != ".lock")
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_whole_study_survives_kill_9_and_skips_what_is_done(study_file, base_dir, tmp_path_factory):
    first = start(study_file)
    for line in first.stdout or ():
        if line.startswith("[  6/20]"):
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = contents(base_dir / "output" / "jobs")

    second = start(study_file)
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0, output
    # What was finished before the kill was not run again: its stamp was not written again.
    assert {name: contents(base_dir / "output" / "jobs")[name] for name in done} == done
    assert len(done) >= 6

    rows = table(base_dir / "results" / "analysis" / "all_perf_table.csv")
    assert {row["model_id"] for row in rows} == {
        "tiny_checkpoint-0",
        "tiny_checkpoint-4",
        "tiny_hf_ckpt0_socialiqa_1epoch_1e-3",
        "tiny_hf_ckpt4_socialiqa_1epoch_1e-3",
    }
    assert {row["n"] for row in rows} == {"6"}
    assert (base_dir / "results" / "analysis" / "report.html").stat().st_size > 10_000
    assert (base_dir / "results" / "analysis" / "gen_paper_figs.ipynb").is_file()

    undisturbed = tmp_path_factory.mktemp("undisturbed")
    other = start(study_file, base_dir=str(undisturbed))
    output = other.communicate(timeout=300)[0]
    assert other.returncode == 0, output
    for name in ("all_perf_table.csv", "official_eval_table.csv", "paired_differences.csv", "findings.csv"):
        tables = [folder / "results" / "analysis" / name for folder in (base_dir, undisturbed)]
        assert tables[0].read_bytes() == tables[1].read_bytes(), name

    before = contents(base_dir)
    third = start(study_file)
    output = third.communicate(timeout=60)[0]
    assert third.returncode == 0, output
    assert contents(base_dir) == before


def test_a_dry_run_writes_nothing(study_file, base_dir):
    process = start(study_file, "--dry-run")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "20 jobs: 1 pretrain, 1 format" in output
    assert not (base_dir / "output").exists()


def test_a_wrong_study_ends_with_code_2_and_one_sentence(study_file, base_dir):
    study_file.write_text(yaml.safe_dump(TOY | {"stepps": [1]}))
    process = start(study_file)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert output.startswith("error: ")
    assert "unknown key stepps (did you mean steps" in output
    assert not (base_dir / "output").exists()


def test_an_unknown_suite_task_is_refused_before_anything_runs(study_file, base_dir):
    study_file.write_text(yaml.safe_dump(TOY | {"suite": {"tasks": ["openbokqa"]}}))
    process = start(study_file)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "openbokqa" in output
    assert "openbookqa" in output
    assert not (base_dir / "output").exists()


def test_a_failed_job_shows_its_last_words_and_stops_what_needs_it(study_file, base_dir):
    # A checkpoint of another recipe stands where this study's would.
    artifact = Artifact(paths.native_checkpoint("tiny", "checkpoint-0"), arguments={"lr": 1.0})
    with artifact.making(is_folder=True):
        (artifact.path / "model.pt").write_text("of another recipe")
    process = start(study_file, "--num_parallel", "1")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "lr was 1.0, now 0.003" in output
    assert "run it alone: python open_instruct/pretrain_tiny.py --steps 0 4" in output
    assert "failed with exit code 2" in output
    # What does not need it is run nevertheless.
    assert "] format " in output
