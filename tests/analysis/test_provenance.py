import csv

import pytest
from simulated_study import STUDY, write_study

from analysis import produce_tables, provenance
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.study.loading import load_study
from open_instruct.study.plan import all_jobs

SMALL = STUDY.replace("[0, 20, 60, 150, 300]", "[0, 20]").split("suite:")[0]


@pytest.fixture
def study_file(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    monkeypatch.setenv("data_dir", str(tmp_path / "data"))
    return write_study(tmp_path, num_items=8, text=SMALL)


def test_every_stage_has_a_row_with_commits_versions_and_seconds(study_file):
    produce_tables.main(produce_tables.Args(study_file))
    outputs = {}
    for job in all_jobs(load_study(study_file)):
        if job.stage not in provenance.OF_THE_ANALYSIS:
            outputs.setdefault(job.stage, []).extend(job.outputs)
    for path in (path for of_stage in outputs.values() for path in of_stage):
        with Artifact(path, {}).making() as facts:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("made")
            facts["device"] = "cpu"
    provenance.main(provenance.Args(study_file))
    rows = list(csv.DictReader((paths.results_dir("simulated") / "provenance.csv").open()))
    assert {row["stage"]: int(row["outputs"]) for row in rows} == {name: len(made) for name, made in outputs.items()}
    assert all(row["torch"] and row["numpy"] and row["devices"] == "cpu" for row in rows)


def test_an_unfinished_study_is_refused(study_file):
    with pytest.raises(UserError, match=r"outputs have no sidecar, such as .*; finish the study first"):
        provenance.main(provenance.Args(study_file))
