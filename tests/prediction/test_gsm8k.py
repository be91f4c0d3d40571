"""GSM8K from the Hub to its score: eight exemplars, long generations, exact match of the final number."""

import json
from dataclasses import replace

import toy_datasets
from loopback_hub import LoopbackHub
from toy_evaluation import read_records

from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from open_instruct import format_generalization
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar, sidecar_path
from open_instruct.data import sources


def test_gsm8k_is_formatted_predicted_and_scored_by_the_final_number(home, monkeypatch):
    sources.hub_files.cache_clear()
    with LoopbackHub() as hub:
        hub.point_clients_here(monkeypatch, home / "cache")
        toy_datasets.fill_hub(hub)
        arguments = format_generalization.Args(None, ("gsm8k",), source="hub", any_row_count=True)
        format_generalization.main(arguments)
    args = predict.Args(
        home / "model",
        (paths.evaluation_file("gsm8k", "default", "_anyrows"),),
        num_shots=8,
        limit=(3,),
        truncate_left=True,
    )
    (path,) = predict.predict_files(replace(args, max_new_tokens=7))
    assert read_sidecar(path)["arguments"]["max_new_tokens"] == 7
    spec = predict.make_specs(args, home / "model")[0]
    assert (spec.generation.max_new_tokens, spec.artifact.path.name) == (512, path.name.replace("_new7", ""))
    assert len(read_sidecar(path)["exemplar_ids"]) == 8

    records = read_records(path)
    outputs = [f"Thus {records[0]['completion']}\n\nQuestion: 3?", "It is $7.", "many"]
    for record, output in zip(records, outputs, strict=True):
        record["output"] = output
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    eval_pred.main(eval_pred.Args((path,)))
    metrics = load_metrics(paths.metrics_file(path))
    assert (metrics.primary, metrics.items["exact_match"]) == ("exact_match", [1, 0, 0])
    assert metrics.metrics["exact_match"].mean == 1 / 3

    # A file without a sidecar is predicted and scored by the same declaration.
    sidecar_path(args.input_files[0]).unlink()
    spec = predict.make_specs(args, home / "model")[0]
    identity = spec.artifact.identity
    assert spec.generation.max_new_tokens == 512
    assert (identity["metric"], identity["answer"]) == ("exact_match", "final_number")
