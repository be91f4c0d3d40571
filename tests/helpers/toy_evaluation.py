"""Shared by the tests of prediction: three evaluation files, and helpers to predict them with the toy model."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, OlmoForCausalLM

from eval import predict
from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import write_jsonl

NLI = "### Input_1: {}\n ### Input_2: {}\n ### Inference:"
ANIMALS = ("cat", "dog", "man", "mat", "party", "question")
# U+2028 ends a line for str.splitlines, not in JSON lines.
RTE = [
    ("rte", NLI.format(f"A {a} sat.", "It\u2028slept."), " " + ("entailment", "neutral")[i % 2])
    for i, a in enumerate(ANIMALS)
]
SCIQ = [
    ("sciq", f"### Input: The {animal} " + "sat " * i + "\n ### Question:", " Why did it sit?")
    for i, animal in enumerate(ANIMALS)
]
TEXT = [("heldout_text", "", f"The {animal} sat on the mat.") for animal in ANIMALS]
KINDS = {"rte": "labels", "sciq": "generation", "heldout_text": "text"}


def write_evaluation(path: Path, rows, task_format="default", protocol="corrected"):
    name = rows[0][0]
    identity = {"eval_set": name, "format": task_format, "protocol": protocol, "kind": KINDS[name], "role": "other"}
    with Artifact(path, {}, identity=identity).making():
        write_jsonl(path, as_records(rows))


def as_records(rows):
    return [{"dataset": d, "id": f"{d}-{i}", "prompt": p, "completion": c} for i, (d, p, c) in enumerate(rows)]


def run_predict(home, *names, **options):
    """Predict evaluation files of `home` by name; return the last prediction file."""
    files = tuple(home / f"{name}.jsonl" for name in names)
    given: dict[str, Any] = {"max_new_tokens": 5} | options
    predict.main(predict.Args(home / "model", files, **given))
    outputs = sorted((home / "output" / "predictions").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return outputs[-1]


def read_records(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def log_prob(model, context, continuation):
    """Log-likelihood in nats, by one plain forward pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
    predicting = log_probs[len(context) - 1 : -1]  # (tokens of the continuation, vocabulary)
    return predicting.gather(-1, torch.tensor(continuation)[:, None]).sum().item()


def load_toy(home):
    return OlmoForCausalLM.from_pretrained(home / "model").eval(), AutoTokenizer.from_pretrained(home / "model")
