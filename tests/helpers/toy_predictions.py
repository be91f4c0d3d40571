"""Prediction files with sidecars, small enough to compute their metrics by hand."""

import math
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import write_jsonl

LN2 = math.log(2)

SCORES = {"entailment": -1.0, "neutral": -2.0}

# Three of four are correct; the gold labels are three entailment and one neutral.
RELATIONS = [
    {"id": f"r-{i}", "completion": f" {gold}", "output": output, "scores": SCORES, "gold_logprob": -1.0}
    for i, (gold, output) in enumerate(
        [("entailment", "entailment"), ("entailment", "neutral"), ("entailment", "entailment"), ("neutral", "neutral")]
    )
]

TEXTS = [
    {"id": "t-0", "completion": "abcd", "gold_logprob": -8 * LN2},
    {"id": "t-1", "completion": "é", "gold_logprob": -1 * LN2},
]


def write_predictions(
    path: Path, records: list[dict[str, Any]], *, kind: str, eval_set: str, shots: int = 0, **more: str
) -> Path:
    """Write predictions with an identity in the sidecar, as eval/predict.py does."""
    identity = {"model_id": "checkpoint-1000", "step": 1000, "eval_set": eval_set, "format": "default"}
    identity |= {"protocol": "corrected", "kind": kind, "role": "other", "shots": shots} | more
    artifact = Artifact(path, {}, identity=identity)
    with artifact.making():
        write_jsonl(path, [{"dataset": eval_set, "prompt": "", **record} for record in records])
    return path
