"""A user's own dataset is predicted and scored by the sidecars of its files, wherever it is declared."""

import json

import yaml
from toy_evaluation import read_records

from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from open_instruct import format_generalization
from open_instruct.common import paths

MOODS = ("good", "very good")


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
