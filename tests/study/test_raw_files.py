"""A study formats its datasets again where a raw file has changed, and takes them as they are where it is gone."""

import json

import pytest
import yaml

from open_instruct.common.errors import UserError
from open_instruct.study.executors.warm_process import run
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan

OWN = {"train": "train.jsonl", "test": "test.jsonl", "lr": 1e-3, "epochs": 1}


@pytest.mark.olmo
def test_a_changed_raw_file_is_formatted_again_and_one_that_is_gone_is_not_needed(base_dir):
    for name in ("train.jsonl", "test.jsonl"):
        rows = [{"prompt": f"{name} {i}", "completion": "yes"} for i in range(20)]
        (base_dir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    study_file = base_dir / "study.yaml"
    sets = {"datasets": {"own": OWN}, "train_sets": {"own": {}}, "evaluation": {"own": {}, "rte": {}}}
    study_file.write_text(yaml.safe_dump({"name": "own", "family": "tiny", "steps": [0], **sets}))

    (job,) = [job for job in plan(load_study(study_file)) if job.stage == "format"]
    run(list(job.command))
    JobCache().put(job, seconds=1)
    assert JobCache().is_done(job)

    for name in ("train.jsonl", "test.jsonl"):
        raw = base_dir / name
        before = raw.read_text()
        raw.write_text(before.replace("19", "nineteen"))
        assert not JobCache().is_done(job)
        raw.write_text(before)
        assert JobCache().is_done(job)

    other = {"datasets": {"own": OWN | {"metric": "exact_match"}}}
    changed = base_dir / "changed.yaml"
    changed.write_text(yaml.safe_dump(yaml.safe_load(study_file.read_text()) | other))
    with pytest.raises(UserError, match="another declaration of its name"):
        plan(load_study(changed))
    assert plan(load_study(changed), overwrite=True)

    (base_dir / "test.jsonl").unlink()
    (job,) = [job for job in plan(load_study(study_file)) if job.stage == "format"]
    assert {path.name for path in job.outputs} == {"rte.jsonl"}
