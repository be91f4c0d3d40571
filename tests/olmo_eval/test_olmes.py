"""OLMES: two forms of every task on the same rows, and the better one of them."""

import pytest
from toy_models import toy_olmo

from olmo_eval import olmes, run_lm_eval
from olmo_eval.instances import load_instances
from olmo_eval.run_lm_eval import Args, main
from olmo_eval.tasks import task_named
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json


@pytest.mark.parametrize("task", ["arc_easy", "boolq", "openbookqa", "winogrande"])
def test_both_forms_have_the_same_items_in_the_same_order(task):
    rc, mc = (load_instances(task_named(form)) for form in task_named(f"{task}::olmes").forms)
    assert [instance.name for instance in rc] == [instance.name for instance in mc]
    assert [instance.item.gold for instance in rc] == [instance.item.gold for instance in mc]
    assert {text for instance in mc for text in instance.item.continuations} <= {f" {letter}" for letter in "ABCDE"}
    assert len(rc) == (1_000 if task in olmes.SAMPLED else task_named(f"{task}::olmes:full").rows.num_rows)
    for one, other in zip(rc, mc, strict=True):
        assert one.item.continuations[one.item.gold].strip() in other.item.contexts[0].rsplit("\n\n", 1)[-1]


def test_scores_and_samples_are_those_of_the_standard():
    assert (task_named("arc_easy:rc::olmes").primary, task_named("arc_easy:mc::olmes").primary) == ("per_char", "raw")
    assert task_named("arc_challenge:rc::olmes").primary == "uncond"
    sampled = load_instances(task_named("piqa:rc::olmes"))
    assert [i.item for i in sampled] == [i.item for i in load_instances(task_named("piqa:rc_5shot"))]
    assert len(load_instances(task_named("piqa:rc::olmes"), limit=7)) == 7


def test_names_of_the_reference_pipeline_are_the_same_tasks():
    assert task_named("arc_easy_std") == task_named("arc_easy:rc::olmes")
    assert task_named("boolq_mc_std") == task_named("boolq:mc::olmes")
    assert task_named("sst") == task_named("sst2")


def entry(task, acc, bits):
    metrics = {"acc": acc, "bits_per_byte": bits, "gold_bytes": bits * 10, "standard_errors": {"bits_per_byte": bits}}
    items = {"id": ["a"], "acc": [acc], "gold_bits": [bits], "gold_bytes": [1]}
    return {"task": task, "metrics": {"rc_metrics": metrics}, "processing_time": 1.0, "items": items}


@pytest.mark.parametrize(("acc", "better"), [(0.25, "rc"), (0.5, "rc"), (0.75, "mc")])
def test_accuracy_is_that_of_the_better_form_and_bits_are_those_of_rc(acc, better):
    found = olmes.better_form("piqa::olmes", entry("rc", 0.5, 3), entry("mc", acc, 1))
    metrics = found["metrics"]["rc_metrics"]
    assert (found["task"], metrics["form"], metrics["acc"]) == ("piqa::olmes", better, max(acc, 0.5))
    assert metrics["acc_of_forms"] == {"rc": 0.5, "mc": acc}
    assert found["items"]["acc"] == [max(acc, 0.5)]
    assert (metrics["bits_per_byte"], metrics["gold_bytes"], metrics["standard_errors"]) == (
        3,
        30,
        {"bits_per_byte": 3},
    )
    assert (found["items"]["gold_bits"], found["processing_time"]) == ([3], 2.0)


def test_one_file_has_the_better_form_of_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("base_dir", str(tmp_path))
    toy_olmo(tmp_path / "toy")
    tasks = ("openbookqa::olmes", "openbookqa:rc::olmes", "openbookqa:mc::olmes")
    args = Args(model_name_or_path=tmp_path / "toy", model_name="toy", tasks=tasks, limit=4, max_seq_length=100)
    main(args)
    files = [paths.suite_file(task, "toy", "_limit4_maxlen100") for task in tasks]
    both, rc, mc = (read_json(file)["metrics"][0] for file in files)
    accuracies = {one["task"]: one["metrics"]["rc_metrics"]["acc"] for one in (rc, mc)}
    assert both["metrics"]["rc_metrics"]["acc_of_forms"] == accuracies
    assert both["metrics"]["rc_metrics"]["acc"] == max(accuracies.values())
    assert both["items"]["id"] == rc["items"]["id"] == mc["items"]["id"]
    assert f"{both['metrics']['rc_metrics']['form']} is the better form" in capsys.readouterr().out


def test_other_exemplars_and_splits_are_refused():
    with pytest.raises(UserError, match="its contexts are precomputed"):
        run_lm_eval.check_arguments(Args(tasks=("piqa::olmes",), num_shots=5))
    with pytest.raises(UserError, match="one split, given by its name"):
        load_instances(task_named("arc_easy:rc::olmes"), split="test")
