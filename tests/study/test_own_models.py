"""Which model is in a folder: a family's checkpoint by its path, also through links, and never two."""

import re
from pathlib import Path

import pytest
import yaml
from toy_models import toy_olmo

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.study.loading import load_study
from open_instruct.study.own_models import base_of
from open_instruct.study.plan import plan


def declare_families(base_dir: Path, **paths: Path) -> None:
    (base_dir / "families.yaml").write_text(yaml.safe_dump({name: {"path": str(path)} for name, path in paths.items()}))


def test_a_family_whose_path_leads_through_links_has_its_own_checkpoints(base_dir):
    folder, link = base_dir / "stored" / "checkpoint-7", base_dir / "runs" / "a"
    folder.mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(folder.parent)
    declare_families(base_dir, mine=link.parent / "{run}" / "checkpoint-{step}")
    assert base_of(link / "checkpoint-7") == Checkpoint("mine", 7, "a")


@pytest.mark.parametrize("family", ["local_hf", "olmo1b_hf"])
def test_a_folder_of_a_family_is_no_run_of_a_family_with_a_shorter_name(base_dir, family):
    folder = base_dir / "output" / f"{family}_tf_ckpts" / "checkpoint-7"
    folder.mkdir(parents=True)
    assert base_of(folder) == Checkpoint(family, 7)


@pytest.mark.parametrize("parent", ["my models", "a..b", "-x", "é"])
def test_a_checkpoint_may_be_in_a_folder_of_any_name(base_dir, parent):
    folder = base_dir / parent / "checkpoint-7"
    folder.mkdir(parents=True)
    assert re.fullmatch(r"checkpoint-7-[0-9a-f]{8}", base_of(folder).model_id)
    declare_families(base_dir, mine=folder.with_name("checkpoint-{step}"))
    assert base_of(folder) == Checkpoint("mine", 7)


def test_a_folder_of_two_families_is_refused_and_so_is_a_study_of_it(base_dir):
    folder = base_dir / "models" / "checkpoint-7"
    toy_olmo(folder)
    pattern = folder.with_name("checkpoint-{step}")
    declare_families(base_dir, first=pattern, second=pattern)
    with pytest.raises(UserError, match="first_checkpoint-7 of family first and second_checkpoint-7 of family second"):
        base_of(folder)
    with pytest.raises(UserError, match="family first and"):
        plan(study_of("second", base_dir))


def test_a_study_of_a_folder_that_records_another_model_is_refused(base_dir):
    folder = base_dir / "models" / "checkpoint-7"
    toy_olmo(folder)
    declare_families(base_dir, mine=folder.with_name("checkpoint-{step}"))
    write_json(folder / "meta.json", {"identity": {"model_id": "other"}, "arguments": {}, "inputs": {}, "files": {}})
    with pytest.raises(UserError, match=r"checkpoint-7 is other, and not mine_checkpoint-7 .* meta\.json"):
        plan(study_of("mine", base_dir))


def study_of(family: str, base_dir: Path):
    path = base_dir / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "family": family, "steps": [7], "evaluation": {"rte": {}}}))
    return load_study(path)
