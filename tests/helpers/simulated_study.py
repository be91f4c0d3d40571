"""A study without models: metrics and suite files with sidecars, simulated with known effects.

By checkpoint index i = 0, 1, ...: base models have 3 - 0.3 i bits per byte; fine-tuning on a generative set lowers them
by 0.5 + 0.2 i on it, and raises them by 0.2 on held-out text; prompt formats differ by 0.05 for base models and by
0.4 - 0.08 i for fine-tuned ones. With `effect=0` there are no effects. Models differ by noise of their own.
"""

from pathlib import Path

import numpy as np

from eval.metrics.bootstrap import bootstrap_mean
from open_instruct.checkpoints.families import step_order
from open_instruct.common import paths
from open_instruct.common.json_files import write_json
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.config import Study
from open_instruct.study.loading import load_study
from open_instruct.study.variants import Variant
from open_instruct.tasks import EVAL_SETS

STUDY = """\
name: simulated
family: olmo1b
steps: [0, 20, 60, 150, 300]
train_sets:
  socialiqa: {epochs: 3, lr: 1e-3}
  hellaswag_endings: {epochs: 3, lr: 1e-3}
  qa_chat: {epochs: 5, lr: 1e-3}
evaluation:
  socialiqa: {formats: [default, instruct, inputoutput]}
  hellaswag_endings: {}
  sciq: {}
  rte: {}
  mrpc: {}
  heldout_text: {}
suite: {tasks: [arc_easy, sciq, openbookqa, hellaswag, boolq], train_sets: [qa_chat]}
"""
WITH_RUNS = STUDY.replace("family: olmo1b", "family: tiny\npretrain: {seeds: [42, 43, 44]}")
"""The same with three pre-training runs."""
RUN_SD = 0.005
FORMAT_STEP = {"default": 0.0, "instruct": 0.5, "inputoutput": 1.0}


def write_study(base_dir: Path, *, num_items: int = 40, effect: float = 1.0, text: str = STUDY) -> Path:
    """Write all files of the study below `base_dir`, which must be $base_dir; returns the study file."""
    study_file = base_dir / "simulated.yaml"
    study_file.write_text(text)
    study = load_study(study_file)
    for variant in study.variants():
        for eval_set, plan in study.evaluation.items():
            for task_format in plan.formats:
                write_metrics(study, variant, eval_set, task_format, num_items=num_items, effect=effect)
        if study.suite and variant.train_set in (None, *study.suite.train_sets):
            for task in study.suite.tasks:
                write_suite(study, variant, task, effect=effect)
    return study_file


def index_of(study: Study, variant: Variant) -> int:
    """Of a checkpoint among all steps of its family in the study."""
    steps = {one.step for one in study.checkpoints() if one.family == variant.checkpoint.family}
    return sorted(steps, key=step_order).index(variant.checkpoint.step)


def true_bits_per_byte(study: Study, variant: Variant, eval_set: str, task_format: str) -> float:
    index = index_of(study, variant)
    spec = EVAL_SETS[eval_set]
    bits = 3 - 0.3 * index
    if spec.role == "pre-training":
        return bits + (0.2 if variant.train_set else 0.0)
    if variant.train_set and spec.role == f"in-domain of {variant.train_set}":
        bits -= 0.5 + 0.2 * index
    spread = 0.4 - 0.08 * index if variant.train_set else 0.05
    return bits + spread * FORMAT_STEP[task_format]


def write_metrics(
    study: Study, variant: Variant, eval_set: str, task_format: str, *, num_items: int, effect: float
) -> None:
    spec = EVAL_SETS[eval_set]
    # The difficulty of an item is the same for every model; the noise is not.
    difficulty = np.random.default_rng(len(eval_set)).normal(size=num_items)
    noise = np.random.default_rng([num_items, *variant.model_id.encode(), *eval_set.encode(), *task_format.encode()])
    gold_bytes = np.full(num_items, 50.0)
    expected = 2 + effect * (true_bits_per_byte(study, variant, eval_set, task_format) - 2)
    expected += RUN_SD * noise.normal()
    gold_bits = gold_bytes * (expected + 0.2 * difficulty + 0.02 * noise.normal(size=num_items))
    items = {"id": [f"{eval_set}_{i}" for i in range(num_items)]}
    items |= {"gold_bits": gold_bits.tolist(), "gold_bytes": gold_bytes.tolist()}
    primary = spec.metric
    metrics = {"bits_per_byte": vars(bootstrap_mean(gold_bits, gold_bytes, num_resamples=200))}
    if primary != "bits_per_byte":
        ability = 0.6 - 0.15 * expected + 0.05 * difficulty + 0.02 * noise.normal(size=num_items)
        values = np.clip(ability, 0, 1) if primary == "rouge_l" else (noise.random(num_items) < 0.5).astype(float)
        items[primary] = values.tolist()
        metrics[primary] = vars(bootstrap_mean(values, num_resamples=200))
    identity = variant.identity() | {"eval_set": eval_set, "format": task_format, "protocol": "corrected"}
    identity |= {"kind": spec.kind, "role": spec.role, "shots": 0}
    path = paths.prediction_file(eval_set, task_format, variant.model_id).with_suffix(".metrics.json")
    write_with_sidecar(path, {"identity": identity, "primary": primary, "metrics": metrics, "items": items}, identity)


def write_suite(study: Study, variant: Variant, task: str, *, effect: float) -> None:
    index = index_of(study, variant)
    accuracy = 0.25 + effect * (0.1 * index + (0.05 if variant.train_set else 0.0)) * (task != "boolq")
    result = {"task": task, "num_instances": 1000, "task_options": {"split": "validation"}}
    result["metrics"] = {"rc_metrics": {"acc_raw": accuracy, "acc_per_token": 0.25, "acc": accuracy}}
    identity = variant.identity() | {"task": task}
    write_with_sidecar(paths.suite_file(task, variant.model_id), {"metrics": [result]}, identity)


def write_with_sidecar(path: Path, content: dict, identity: dict) -> None:
    write_json(path, content)
    write_json(sidecar_path(path), {"identity": identity, "arguments": {}, "inputs": {}, "files": {}})
