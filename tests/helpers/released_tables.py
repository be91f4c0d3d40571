"""Tables in the format of the authors' released ones, with seeded random numbers.

Four checkpoints; base models with 4 and 0 shots; four train sets and tulu; prompt formats; two evaluation sets with
constant gold; one row of another recipe; one missing cell.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_study import write_with_sidecar

from analysis.tables.frames import where
from analysis.tables.released import read_released
from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.study.variants import Variant

STEPS = ("1000", "18000", "342000", "main")
RECIPES = {"mnli": "3epoch_2e-6", "paws": "3epoch_2e-6", "socialiqa": "3epoch_2e-6", "xsum": "3epoch_2e-7"}
OWN = {"mnli": "mnli_matched", "paws": "paws", "socialiqa": "socialiqa", "xsum": "xsum"}
OUT = {"mnli": ("rte", "gpt3nli"), "paws": ("qqp", "stsb"), "socialiqa": ("sciq", "tweetqa"), "xsum": ("cnn", "xlsum")}
CONSTANT = ("qqp", "stsb")
FORMATS = ("", "_instruct", "_inputoutput")
SUITES = {"arc_easy": 570, "arc_challenge": 299, "hellaswag": 10042, "openbookqa": 500, "sciq": 1000, "boolq": 3270}


SOURCES = ("made here", "released")
"""Tables of write_released, and the authors' own, whose folder is the environment variable released_tables."""


def tables_of(source: str, folder: Path) -> Path:
    """The folder of the tables; generated ones are written to `folder`."""
    if source == "made here":
        return write_released(folder)
    if not os.environ.get("released_tables"):
        pytest.skip("released_tables is not set: the authors' released tables are NOT tested")
    return Path(os.environ["released_tables"])


def base_id(step: str, shots: int = 4) -> str:
    name = "olmo1b_original_hf" if step == "main" else f"olmo1b_checkpoint-{step}_original_hf"
    return f"{name}_{shots}shots" if shots else name


def tuned_id(step: str, train_set: str, shots: int = 4) -> str:
    checkpoint = "main" if step == "main" else f"ckpt{step}"
    name = f"olmo1b_hf_{checkpoint}_{train_set}_{RECIPES.get(train_set, '5epoch_2e-6')}"
    return f"{name}_{shots}shots" if shots else name


def write_released(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []

    def add(model_id: str, dataset: str, low: float, high: float) -> None:
        rows.append((model_id, dataset, rng.uniform(low, high), rng.uniform(0.002, 0.006)))

    for step in STEPS:
        for train_set, own in OWN.items():
            for suffix in FORMATS:
                add(base_id(step), own + suffix, 0.05, 0.5)
                add(tuned_id(step, train_set), own + suffix, 0.4, 0.9)
            for other in OUT[train_set]:
                low, high = (0.995, 1.0) if other in CONSTANT else (0.1, 0.5)
                add(base_id(step), other, low, high)
                add(tuned_id(step, train_set), other, 0.1, 0.9)
            for other in set(OWN.values()) - {own}:
                if (step, train_set) != ("342000", "mnli"):
                    add(tuned_id(step, train_set), other, 0.0, 0.5)
        add(base_id(step), "llmbar_Natural", 0.3, 0.7)
        add(tuned_id(step, "tulu"), "llmbar_Natural", 0.3, 0.7)
    add(base_id("1000", 0), "xsum", 0.0, 0.1)
    add(tuned_id("18000", "xsum", 0), "xsum", 0.0, 0.1)
    add("olmo1b_checkpoint-18000_original", "socialiqa", 0.0, 0.1)
    add("olmo1b_hf_main_mnli_3epoch_2e-5", "rte", 0.3, 0.5)
    for step in STEPS:
        add(base_id(step), "mnli_mismatched", 0.05, 0.5)
        add(tuned_id(step, "mnli"), "mnli_mismatched", 0.4, 0.9)
    write(folder / "all_perf_table.csv", rows, ("model_id", "eval dataset", "Performance", "std"))

    official = []
    for step in STEPS:
        for task, size in SUITES.items():
            base = "olmo1b_original_hf" if step == "main" else f"checkpoint-{step}"
            for model_id in (base, tuned_id(step, "tulu").removesuffix("_4shots")):
                official.append((model_id, task, rng.integers(size // 4, size) / size))
    write(folder / "official_eval_table.csv", official, ("model_id", "eval dataset", "Performance"))
    others = [("checkpoint-1000_cot_chat", "gsm", 0.005), ("olmo1b_tulu_5epoch_2e-6", "mmlu", 0.26734083463895457)]
    write(folder / "it_perf_table.csv", others, ("model_id", "eval dataset", "Performance"))
    return folder


def write(path: Path, rows: list[tuple], columns: tuple[str, ...]) -> None:
    pd.DataFrame(rows, columns=list(columns)).to_csv(path)


def write_own_like(folder: Path, *, shifted: dict[str, float]) -> int:
    """Write metrics and suite files below $base_dir with the scores of the tables in `folder` plus noise.

    Noise is of the published standard error, for suites of that of 1,000 items. `shifted`: added to every score of an
    evaluation set.  Returns the number of files.
    """
    rows, _ = read_released(folder)
    rng, count = np.random.default_rng(1), 0
    for row in rows:
        is_usual = row["conversion"] == "hf" and row["format"] != "cot_chat"
        if not is_usual or row["metric"] not in ("rouge_l", "accuracy", "acc"):
            continue
        variant = Variant(Checkpoint("olmo1b", row["step"]), row["train_set"], row["epochs"], row["lr"])
        is_suite, shots = row["kind"] == "suite", f"_{row['shots']}shots" if row["shots"] else ""
        error = np.sqrt(row["Performance"] * (1 - row["Performance"]) / 1000) if is_suite else max(row["std"], 1e-4)
        score = float(np.clip(row["Performance"] + rng.normal(0, error) + shifted.get(row["eval_set"], 0.0), 0, 1))
        if is_suite:
            path = paths.suite_file(row["eval_set"], variant.model_id, shots)
            identity = variant.identity() | {"task": row["eval_set"]}
            result = {"task": row["eval_set"], "num_instances": 1000, "task_options": {"num_shots": row["shots"]}}
            content = {"metrics": [result | {"metrics": {"rc_metrics": {"acc": score}}}]}
        else:
            path = paths.metrics_file(paths.prediction_file(row["eval_set"], row["format"], variant.model_id, shots))
            evaluation = {key: row[key] for key in ("eval_set", "format", "kind", "role", "shots")}
            identity = variant.identity() | evaluation | {"protocol": "corrected"}
            mean = {"mean": score, "standard_error": error, "ci_low": score - 2 * error, "ci_high": score + 2 * error}
            content = {"identity": identity, "primary": row["metric"], "metrics": {row["metric"]: mean | {"n": 1000}}}
        write_with_sidecar(path, content, identity)
        count += 1
    return count


def degenerate_models(scores: pd.DataFrame, why: str = "") -> set[tuple[str, str, str]]:
    """(model_id, setting, format) of the rows that are degenerate for a reason which contains `why`."""
    rows = where(scores, [reason is not None and why in reason for reason in scores["degenerate"]])
    return set(zip(rows["model_id"], rows["setting"], rows["format"], strict=True))
