"""What a stage would refuse, the plan refuses: options that do not fit together, and outputs that are another's."""

import pytest
import yaml
from toy_study import SMALL

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.study.job_cache import JobCache
from open_instruct.study.loading import load_study
from open_instruct.study.plan import plan
from open_instruct.study.stage_scripts import require_runnable


@pytest.fixture
def jobs_of(tmp_path):
    def make(*overrides):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(SMALL))
        return plan(load_study(path, overrides))

    return make


def test_a_plan_without_clashes_is_accepted(jobs_of):
    require_runnable(jobs_of(), JobCache())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.early_stopping_patience=2", "needs validation_file or num_validation_rows"),
        ("predict.temperature=0.5", "no effect without --do_sample"),
        ("suite.tasks=[openbokqa]", "openbookqa"),
    ],
)
def test_options_that_a_stage_refuses_are_refused_with_its_reason(jobs_of, override, message):
    with pytest.raises(UserError, match=message):
        require_runnable(jobs_of(override), JobCache())


def test_a_file_of_the_users_in_the_place_of_an_output_is_named(jobs_of):
    train_file = paths.train_file("socialiqa")
    train_file.parent.mkdir(parents=True)
    train_file.write_text("mine\n")
    with pytest.raises(UserError, match=r"socialiqa\.jsonl"):
        require_runnable(jobs_of(), JobCache())
    assert train_file.read_text() == "mine\n"


def test_an_output_of_other_arguments_is_named(jobs_of):
    jobs = jobs_of()
    (pretrain,) = [job for job in jobs if job.stage == "pretrain"]
    with Artifact(pretrain.outputs[1], {"d_model": 9}, identity={"family": "tiny"}).making_folder():
        pass
    with pytest.raises(UserError, match="was made with other arguments: d_model was 9, now 32"):
        require_runnable(jobs, JobCache())


def test_an_output_of_another_model_is_named(jobs_of):
    jobs = jobs_of()
    (predict,) = [job for job in jobs if job.stage == "predict" and "socialiqa" not in job.name]
    for path in predict.inputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            kind = "text" if "heldout" in path.name else "labels"
            identity = {"eval_set": path.stem, "format": "default", "protocol": "corrected", "kind": kind, "role": "x"}
            with Artifact(path, {}, identity=identity).making() as facts:
                facts["label_words"], facts["parse_order"] = ["entailment", "neutral"], []
                write_jsonl(path, [{"dataset": path.stem, "id": "0", "prompt": "a", "completion": " entailment"}])
        else:
            path.mkdir()
            (path / "config.json").write_text('{"model_type": "olmo"}')
    model = predict.outputs[0].parent / "elsewhere"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "olmo", "another": 1}')
    (artifact,) = [one for one in script_artifacts(predict) if one.path == predict.outputs[0]]
    other = Artifact(artifact.path, artifact.arguments, {**artifact.inputs, "model": model}, artifact.identity)
    with other.making():
        write_jsonl(other.path, [{"id": "0"}])
    with pytest.raises(UserError, match=r"was made from other files: model was output/predictions/elsewhere"):
        require_runnable(jobs, JobCache())


def script_artifacts(job):
    from open_instruct.study.stage_scripts import arguments_of, script_of

    script = script_of(job)
    return script.artifacts(arguments_of(job, script))
