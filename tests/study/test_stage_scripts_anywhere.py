"""Stage scripts find the repository and their folders from wherever they are started, also as Slurm's copy."""

import os
import shutil
import subprocess

import pytest
from stage_scripts import SCRIPTS

from open_instruct.common.paths import REPOSITORY

BEGINNING, END = "# The repository is above", "[[ $base_dir == /* ]]"
PRINTS_FOLDERS = '#!/bin/sh\necho "$PWD $base_dir"\n'


def lookup(script) -> str:
    """The lines of a stage script that find the repository."""
    text = script.read_text()
    return text[text.index(BEGINNING) : text.index(END)]


def test_all_stage_scripts_find_the_repository_in_the_same_way():
    assert len({lookup(script) for script in SCRIPTS.glob("*.sh")}) == 1


@pytest.fixture
def folders(tmp_path):
    """A copy of a stage script as Slurm makes one, programs that print the folders of the stage, and the output."""
    (tmp_path / "spool").mkdir()
    shutil.copy(SCRIPTS / "score_pred.sh", tmp_path / "spool" / "slurm_script")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "python").write_text(PRINTS_FOLDERS)
    (tmp_path / "programs" / "python").chmod(0o755)
    return tmp_path


def run(folders, script, **variables) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{folders / 'programs'}:{os.environ['PATH']}"} | {k: str(v) for k, v in variables.items()}
    return subprocess.run(["bash", str(script)], env=environment, cwd=folders, capture_output=True, text=True)


def submitted(folders) -> None:
    """Let Slurm say which file was submitted."""
    (folders / "programs" / "scontrol").write_text(
        f'#!/bin/sh\n[ "$3" = 7 ] && echo "   Command={SCRIPTS}/score_pred.sh --input_files a.jsonl"\n'
    )
    (folders / "programs" / "scontrol").chmod(0o755)


@pytest.mark.parametrize("folder", ["", "scripts/slurm_scripts", "docs"])
def test_slurms_copy_finds_the_repository_above_the_folder_of_submission(folders, folder):
    done = run(folders, folders / "spool" / "slurm_script", SLURM_SUBMIT_DIR=REPOSITORY / folder)
    assert done.stdout == f"{REPOSITORY} {REPOSITORY}\n"


def test_slurms_copy_finds_the_repository_of_the_submitted_file(folders):
    submitted(folders)
    done = run(folders, folders / "spool" / "slurm_script", SLURM_SUBMIT_DIR=folders, SLURM_JOB_ID=7, base_dir=folders)
    assert done.stdout == f"{REPOSITORY} {folders}\n"


def test_slurms_copy_finds_the_repository_above_base_dir(folders):
    inside = REPOSITORY / "docs"
    done = run(folders, folders / "spool" / "slurm_script", SLURM_SUBMIT_DIR=folders, base_dir=inside)
    assert done.stdout == f"{REPOSITORY} {inside}\n"


def test_a_repository_that_is_nowhere_is_asked_for(folders):
    done = run(folders, folders / "spool" / "slurm_script", SLURM_SUBMIT_DIR=folders, SLURM_JOB_ID=7)
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("set repository to its folder")
    assert done.stdout == ""


def test_a_relative_base_dir_is_that_of_the_folder_where_the_script_was_started(folders):
    done = run(folders, SCRIPTS / "score_pred.sh", base_dir="spool", SLURM_SUBMIT_DIR=folders)
    assert done.stdout == f"{REPOSITORY} {folders}/spool\n"


@pytest.mark.slurm
@pytest.mark.parametrize("cwd", [SCRIPTS, REPOSITORY, None], ids=["its folder", "repository", "elsewhere"])
def test_a_submitted_script_runs_in_the_repository(slurm, folders, cwd):
    log, path = folders / "slurm.log", {"PATH": f"{folders / 'programs'}:{os.environ['PATH']}"}
    job = slurm.sbatch("--mem=100M", f"--output={log}", str(SCRIPTS / "score_pred.sh"), cwd=cwd or folders, env=path)
    assert slurm.wait_for_job(job) == "COMPLETED", log.read_text()
    assert log.read_text().split()[0] == str(REPOSITORY)
