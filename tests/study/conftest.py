"""Fixtures of the study's tests."""

import pytest
from slurm_study import run_locally
from stage_scripts import install_recorders


@pytest.fixture
def recorders(tmp_path):
    """A folder with programs `python` and `accelerate` that record their arguments and run nothing."""
    folder = tmp_path / "programs with a space"
    install_recorders(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed_tables(tmp_path_factory):
    """Tables of the small study, run on this machine without interruption."""
    return run_locally(tmp_path_factory.mktemp("undisturbed"))
