"""One report of a small simulated study, for the tests of the page and of the browser; one study of several runs."""

import os
import subprocess
import sys

import pytest
from simulated_study import STUDY, write_study
from weight_records import STUDY_OF_FOUR_RUNS, results_with_records

from analysis.tables.frames import read_tables
from open_instruct.common import paths
from open_instruct.common.paths import REPOSITORY


@pytest.fixture(scope="session")
def run_report():
    def run(base_dir, *, name="simulated", hash_seed):
        """Run report.py in a process of its own: with another `hash_seed`, sets of strings have another order."""
        script, study_file = REPOSITORY / "analysis" / "report.py", base_dir / f"{name}.yaml"
        environment = os.environ | {"base_dir": str(base_dir), "PYTHONHASHSEED": hash_seed}
        environment["PYTHONPATH"] = f"{REPOSITORY / 'eval'}:{REPOSITORY}"
        command = [sys.executable, str(script), "--study", str(study_file)]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    return run


@pytest.fixture(scope="session")
def reported(tmp_path_factory, run_report):
    """A base_dir with the report of a study in which the suite file boolq_checkpoint-20.json is missing."""
    base_dir = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("base_dir", str(base_dir))
        text = STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20, 60]").replace("  rte: {}\n  mrpc: {}\n", "")
        write_study(base_dir, num_items=8, text=text)
        paths.suite_file("boolq", "checkpoint-20").unlink()
    run_report(base_dir, hash_seed="1")
    return base_dir


@pytest.fixture(scope="session")
def of_runs(tmp_path_factory):
    """Tables of four pre-training runs, with records of their weights."""
    with results_with_records(tmp_path_factory.mktemp("runs"), STUDY_OF_FOUR_RUNS) as folder:
        return read_tables(folder)
