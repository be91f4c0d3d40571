"""The primary claim of every study file is exactly one claim of its findings, and can be judged with its replicates."""

import pytest
import yaml
from simulated_study import write_study

from analysis.inference.findings import DESCRIBED, NOT_TESTABLE, find
from analysis.inference.result_tables import build_tables
from analysis.tables.gathering import gather_measurements
from open_instruct.common import paths
from open_instruct.study.loading import load_study

STUDIES = [path for path in sorted((paths.REPOSITORY / "scripts/studies").glob("*.yaml")) if load_study(path).primary]


def made_small(text: str) -> str:
    """The study file without what is named in its measurements, with three checkpoints of its first three runs."""
    study = yaml.safe_load(text)
    study = {key: value for key, value in study.items() if key not in ("suite", "predict")}
    study["evaluation"] = {name: (config or {}) | {"limit": None} for name, config in study["evaluation"].items()}
    for courses in (study, *study.get("families", {}).values()):
        for course in (courses, *courses.get("stages", {}).values()):
            if steps := course.get("steps"):
                course["steps"] = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
            if runs := course.get("runs"):
                course["runs"] = runs[:3]
    return yaml.safe_dump(study)


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_primary_claim_of_a_study_is_one_that_its_replicates_can_judge(path, base_dir):
    study = load_study(write_study(base_dir, num_items=25, text=made_small(path.read_text())))
    (primary,) = [one for one in find(build_tables(gather_measurements(study), study), study.primary) if one.is_primary]
    assert primary.replicates == 3
    assert primary.verdict not in (DESCRIBED, NOT_TESTABLE), primary.sentence
