"""Fixtures that several test files share. Every test has a base_dir of its own.

torch and the helpers that need it are imported where they are used: many tests run without.
"""

import shutil
import sys
from pathlib import Path

import pytest
from devices import any_device, hide_gpu
from private_slurm import PrivateSlurm, missing_programs

from open_instruct.common.artifacts import Artifact
from open_instruct.common.olmo_package import is_installed

NEEDS_OLMO = ("needs the ai2-olmo package", "No module named 'olmo")
"""In the errors of what needs the ai2-olmo package."""


@pytest.fixture(autouse=True)
def base_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    monkeypatch.delenv("data_dir", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def no_gpu(request, monkeypatch):
    """Tests run on the CPU also where there is a GPU, but for those marked `gpu`."""
    if request.node.get_closest_marker("gpu") is None:
        hide_gpu(monkeypatch)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, then the GPU where there is one."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with any_device():
        yield torch.device(request.param)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Toy matrices lose far more time to threads waiting for each other than they gain."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def slurm():
    """A running private cluster, the same for all tests; one that harms it starts its own."""
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} not found)")
    with PrivateSlurm() as cluster:
        yield cluster


def pytest_runtest_setup(item):
    if item.get_closest_marker("olmo") and not is_installed():
        pytest.skip("needs the ai2-olmo package")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Without the ai2-olmo package, a test that stops because it needs it is skipped."""
    report = yield
    text = str(report.longrepr) + report.capstdout + report.capstderr
    if report.failed and not is_installed() and any(error in text for error in NEEDS_OLMO):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, "Skipped: needs the ai2-olmo package")
    return report


def pytest_terminal_summary(terminalreporter):
    skipped = [
        str(r.longrepr)
        for r in terminalreporter.stats.get("skipped", ())
        if "Slurm is not installed" in str(r.longrepr)
    ]
    if skipped:
        terminalreporter.section("NOT TESTED: the study on Slurm", red=True)
        terminalreporter.line(f"{len(skipped)} tests were skipped; to run them: apt-get install slurm-wlm munge")


@pytest.fixture
def folder(tmp_path):
    """A folder with a native checkpoint in native/ and its tokenizer in tokenizer/."""
    from toy_models import toy_native_olmo, toy_tokenizer

    toy_native_olmo(tmp_path / "native")
    toy_tokenizer(tmp_path / "tokenizer")
    return tmp_path


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory):
    from toy_models import toy_olmo

    folder = tmp_path_factory.mktemp("models") / "toy"
    # Wide weights: random text then differs from item to item.
    toy_olmo(folder, initializer_range=0.3, max_position_embeddings=256)
    return folder


@pytest.fixture
def home(tmp_path, toy_model):
    """A base_dir with one model and three evaluation files, each with its sidecar."""
    from toy_evaluation import RTE, SCIQ, TEXT, write_evaluation

    for rows in (RTE, SCIQ, TEXT):
        write_evaluation(tmp_path / f"{rows[0][0]}.jsonl", rows)
    with Artifact(tmp_path / "model", {}, identity={"model_id": "toy_ckpt7", "step": 7}).making_folder() as (made, _):
        shutil.copytree(toy_model, made, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def predictions(tmp_path, monkeypatch) -> Path:
    """The folder of predictions of an empty base_dir."""
    monkeypatch.setenv("base_dir", str(tmp_path))
    monkeypatch.delenv("output_file_name", raising=False)
    folder = tmp_path / "output" / "predictions"
    folder.mkdir(parents=True)
    return folder
