"""Fixtures of the study's tests."""

from functools import partial

import pytest
from fake_jobs import fake_job
from slurm_study import run_locally
from stage_scripts import install_recorders

from open_instruct.study.executors import warm_process


@pytest.fixture
def recorders(tmp_path):
    """A folder with programs `python` and `accelerate` that record their arguments and run nothing."""
    folder = tmp_path / "programs with a space"
    install_recorders(folder)
    return folder


@pytest.fixture
def make_job(base_dir, monkeypatch):
    """Make a fake job: its name, its code, and the jobs whose outputs it reads."""
    # Set by the executor.
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(warm_process, "HEAVY_MODULES", [])
    return partial(fake_job, base_dir)


@pytest.fixture(scope="session")
def undisturbed_tables(tmp_path_factory):
    """Tables of the small study, run on this machine without interruption."""
    return run_locally(tmp_path_factory.mktemp("undisturbed"))
