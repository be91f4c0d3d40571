"""Several text sets of one's own, one for each source, are formatted, predicted and scored in bits per byte."""

import json

import pytest
import yaml

from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from open_instruct import format_generalization
from open_instruct.common import paths

SOURCES = {"news": ["Rain fell.", "Snow fell on the town."], "forums": ["who won", "they did"], "code": ["x = 1"]}


def test_a_declaration_a_source_gives_bits_per_byte_by_source(home):
    (home / "paloma").mkdir()
    for name, texts in SOURCES.items():
        rows = [{"text": text, "source": name, "subdomain": f"{name} {i % 2}"} for i, text in enumerate(texts)]
        (home / "paloma" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = {name: {"test": f"paloma/{name}*.jsonl", "kind": "text", "cluster": "subdomain"} for name in SOURCES}
    (home / "datasets.yaml").write_text(yaml.safe_dump(entries))
    format_generalization.main(format_generalization.Args(None, tuple(SOURCES)))
    files = tuple(paths.evaluation_file(name) for name in SOURCES)
    predictions = predict.predict_files(predict.Args(home / "model", files))
    eval_pred.main(eval_pred.Args(tuple(predictions)))
    for path, texts in zip(predictions, SOURCES.values(), strict=True):
        metrics = load_metrics(paths.metrics_file(path))
        assert (metrics.primary, metrics.metrics["bits_per_byte"].n) == ("bits_per_byte", len(texts))
        assert metrics.items["gold_bytes"] == [len(text.encode()) for text in texts]
        assert len(set(metrics.items["cluster"])) == min(2, len(texts))
        bits = sum(metrics.items["gold_bits"]) / sum(map(len, texts))
        assert metrics.metrics["bits_per_byte"].mean == pytest.approx(bits)
