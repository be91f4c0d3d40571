"""scripts/run_study.py: a study is killed, run again, finished and skipped; invalid ones are refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slurm_study import tables
from toy_study import NUM_JOBS, SCRIPT, SMALL, TOY

from scripts import run_study


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


def start(study_file: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(study_file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(study_file: Path, *options: str, exit_code: int = 0) -> str:
    """-> what it prints"""
    process = start(study_file, *options)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == exit_code, output
    return output


def contents(folder: Path, pattern: str = "**/*") -> dict[str, tuple[int, bytes]]:
    """Name -> time and bytes of every file below, except logs and locks."""
    files = (p for p in folder.glob(pattern) if p.is_file() and "logs" not in p.parts and p.suffix != ".lock")
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.mark.slow
def test_a_study_killed_by_sigkill_resumes_to_the_same_tables(study_file, base_dir, undisturbed_tables):
    study_file.write_text(yaml.safe_dump(SMALL))
    first = start(study_file)
    for line in first.stdout or ():
        if line.startswith(f"[  5/{NUM_JOBS}]"):
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finished = contents(base_dir / "output" / "jobs", "*.json")
    assert len(finished) >= 5

    run(study_file)
    # Finished jobs were not run again: their cache entries are the same files.
    assert contents(base_dir / "output" / "jobs", "*.json").items() >= finished.items()
    assert tables(base_dir, "*.csv") == undisturbed_tables
    results = base_dir / "results" / "toy"
    assert (results / "report.html").stat().st_size > 10_000
    assert (results / "gen_paper_figs.ipynb").is_file()

    before = contents(base_dir)
    run(study_file)
    assert contents(base_dir) == before


def test_a_dry_run_writes_nothing(study_file, base_dir):
    output = run(study_file, "--dry-run")
    assert "total: 20 of 20 jobs left" in output
    assert "eval/predict.py" not in output
    assert "python eval/predict.py --model_name_or_path" in run(study_file, "--dry-run", "--verbose")
    assert not (base_dir / "output").exists()


HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "pandas", "matplotlib", "plotly", "scipy.stats"}


@pytest.mark.olmo
@pytest.mark.parametrize(
    ("command", "heavy"),
    # A dry run computes the power of the plan, for which the special functions of scipy are enough.
    [("--dry_run", HEAVY | {"scipy.optimize"}), ("--status", HEAVY | {"scipy"})],
)
def test_no_heavy_library_is_imported_where_nothing_is_run(study_file, command, heavy):
    code = f"import runpy, sys; sys.argv = [{str(SCRIPT)!r}, {str(study_file)!r}, {command!r}]"
    code += f"; runpy.run_path({str(SCRIPT)!r}, run_name='__main__'); print('imported:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "open_instruct.study.plan" in imported
    assert imported & heavy == set()


def test_a_dry_run_says_that_one_run_judges_nothing_and_how_many_to_add(study_file):
    output = run(study_file, "--dry-run")
    assert "smallest gain by fine-tuning" in output
    assert "can be judged with 1 pre-training run: add 2 more" in output


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"stepps": [1]}, ["unknown key stepps (did you mean steps"]),
        pytest.param({"suite": {"tasks": ["openbokqa"]}}, ["openbokqa", "openbookqa"], marks=pytest.mark.olmo),
    ],
)
def test_an_invalid_study_is_refused_before_anything_runs(study_file, base_dir, changes, messages):
    study_file.write_text(yaml.safe_dump(TOY | changes))
    output = run(study_file, exit_code=2)
    assert output.startswith("error: ")
    assert all(message in output for message in messages)
    assert not (base_dir / "output").exists()


def test_the_status_of_a_study_whose_models_are_gone_is_shown(study_file, base_dir):
    (base_dir / "families.yaml").write_text("mine: {path: '/no such folder/{step}'}\n")
    changes = {"family": "mine", "pretrain": None, "train_sets": {}, "suite": None}
    study_file.write_text(yaml.safe_dump({key: value for key, value in (TOY | changes).items() if value is not None}))
    assert "put them there first" in run(study_file, "--dry_run", exit_code=2)
    assert "for predict" in run(study_file, "--status")


def test_a_command_to_type_next_has_the_values_in_place_of_the_files():
    args = run_study.Args(Path("a study.yaml"), set=("seed=1",))
    assert run_study.same_study(args) == "python scripts/run_study.py 'a study.yaml' --set seed=1 --executor local"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry_run", "--status"], "--dry_run and --status exclude each other"),
        (["--cancel"], "--cancel is for --executor slurm"),
        (["--overwrite", "--executor", "slurm"], "--overwrite is for the local executor"),
        (["--only", "finetun"], "no such stage in this study (did you mean finetune"),
        (["--only", "score", "--dry_run"], "with --only add the stage that makes them"),
    ],
)
def test_options_that_do_not_apply_are_refused(study_file, options, message):
    assert message in run(study_file, *options, exit_code=2)
