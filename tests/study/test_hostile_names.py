"""Spaces, quotes, $(…), .. and line breaks in study files and variables are refused or taken literally."""

import os
import random
import subprocess

import pytest
import yaml
from stage_scripts import SCRIPTS, run_script, split
from toy_study import TOY

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.study.config import Study
from open_instruct.study.executors.slurm import Submitter, in_flight
from open_instruct.study.executors.submissions import all_submissions
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan

PIECES = (
    " ",
    "'",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "..",
    "/",
    "\n",
    ";",
    "&",
    "|",
    "*",
    "\\",
    "%j",
    "-",
    "é",
    "\x07",
)
PLACES = {
    "name": lambda study, text: study | {"name": text},
    "family": lambda study, text: study | {"family": text},
    "train set": lambda study, text: study | {"train_sets": {text: TOY["train_sets"]["socialiqa"]}},
    "evaluation set": lambda study, text: study | {"evaluation": {text: {}}},
    "format": lambda study, text: study | {"evaluation": {"rte": {"formats": [text]}}},
    "protocol": lambda study, text: study | {"protocol": text},
    "precision": lambda study, text: (
        study | {"train_sets": {"socialiqa": {"epochs": 1, "lr": 1, "mixed_precision": text}}}
    ),
    "stage": lambda study, text: study | {"resources": {text: {"gpus": 1}}},
    "partition": lambda study, text: study | {"resources": {"predict": {"partition": text}}},
    "account": lambda study, text: study | {"resources": {"predict": {"account": text}}},
    "time": lambda study, text: study | {"resources": {"predict": {"time": text}}},
    "sbatch": lambda study, text: study | {"resources": {"predict": {"sbatch": [text]}}},
    "sbatch value": lambda study, text: study | {"resources": {"predict": {"sbatch": [f"--comment={text}"]}}},
}
HOSTILE_FOLDERS = ('-x a b\'s "so" $(touch pwned) `touch pwned`;& c|d %j %a é', "*")


def hostile(generator: random.Random) -> str:
    """A name with at least one piece that is not allowed in a name."""
    pieces = [generator.choice(PIECES) for _ in range(generator.randint(1, 4))]
    return "".join(generator.choice(("", "x", "rte")) + piece for piece in pieces) + generator.choice((" ", "'", "\n"))


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_name_in_a_study_file_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator, path = random.Random(place), tmp_path / "study.yaml"
    for _ in range(25):
        text = hostile(generator)
        path.write_text(yaml.safe_dump(PLACES[place](TOY, text), allow_unicode=True))
        with pytest.raises(UserError, match=r"study\.yaml"):
            load_study(path)
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_a_hostile_base_dir_reaches_every_script_unchanged(name, tmp_path, monkeypatch, recorders):
    monkeypatch.setenv("base_dir", str(tmp_path / name))
    (tmp_path / name).mkdir()
    file = paths.REPOSITORY / "scripts" / "studies" / "tiny.yaml"
    for job in {job.stage: job for job in plan(load_study(file))}.values():
        _, options = split(run_script(job, recorders))
        _, planned = split(job.command)
        assert {flag: options.get(flag) for flag in planned} == planned, job.stage
    assert not list(tmp_path.rglob("pwned"))
    assert not (paths.REPOSITORY / "pwned").exists()


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.stem)
def test_hostile_variables_are_never_executed(script, tmp_path, recorders):
    """For every variable that the comments at the top of the script describe."""
    head = [line for line in script.read_text().splitlines() if line.startswith("#   ")]
    names = {word for line in head for word in line[4:].split("  ")[0].replace(",", " ").split()}
    text = "x'\" $(touch pwned) `touch pwned`; touch pwned\n& touch pwned | .."
    variables = {name: text for name in names if name not in ("base_dir", "data_dir")}
    subprocess.run(
        ["bash", str(script), text],
        env={"PATH": f"{recorders}:{os.environ['PATH']}", "base_dir": str(tmp_path)} | variables,
        cwd=tmp_path,
        capture_output=True,
    )
    assert not [*tmp_path.rglob("pwned"), *paths.REPOSITORY.glob("pwned")]


@pytest.mark.slurm
def test_a_job_on_slurm_runs_below_a_hostile_folder(slurm, tmp_path, monkeypatch):
    base_dir = tmp_path / "a b'c\"d $(touch pwned) `x`;& %j %% é"
    base_dir.mkdir()
    (tmp_path / "make.sh").write_text(
        '#!/usr/bin/env bash\n#SBATCH --comment=mine\nset -euo pipefail\necho made > "$output"\n'
    )
    for variable, value in (slurm.environment | {"base_dir": str(base_dir)}).items():
        monkeypatch.setenv(variable, value)
    output = base_dir / "an output"
    job = Job("score", "one", ("make",), (output,), (), str(tmp_path / "make.sh"), {"output": str(output)})
    study = Study("hostile", train_sets={}, evaluation={})
    submitter = Submitter(study, [job], done=set(), failed=set(), num_bytes={})
    assert list(submitter.submit({job.id}).submitted) == [job.id]
    slurm.wait_until_empty()
    assert output.read_text() == "made\n"
    assert JobCache().is_done(job)
    assert in_flight(all_submissions()) == {}
    (submission,) = all_submissions()
    assert submission.log(0).is_file()
    # The stage script's own options are kept.
    assert "#SBATCH --comment=mine" in (submission.folder / "job.sh").read_text().splitlines()
    assert not [*tmp_path.rglob("pwned"), *paths.REPOSITORY.glob("pwned")]
