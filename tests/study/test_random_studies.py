"""Every plan that --dry_run accepts runs to its end; every other is refused in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from random_studies import prepare, random_study
from toy_study import SCRIPT

NUM_STUDIES = 4
"""Each takes about half a minute."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """One base_dir for all studies: they share what is equal, and must not meet where they differ."""
    folder = tmp_path_factory.mktemp("random")
    prepare(folder)
    return folder


def run(study_file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"base_dir": str(study_file.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(study_file), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_STUDIES))
def test_a_plan_that_is_accepted_runs_to_its_end(shared, seed):
    study_file = shared / f"random-{seed}.yaml"
    study_file.write_text(yaml.safe_dump(random_study(seed)))
    planned = run(study_file, "--dry_run")
    if planned.returncode == 2:
        assert planned.stderr.startswith("error: ")
        assert "Traceback" not in planned.stderr
        return
    assert planned.returncode == 0, planned.stderr
    done = run(study_file)
    assert done.returncode == 0, f"{study_file.read_text()}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "total: 0 of " in run(study_file, "--dry_run").stdout
