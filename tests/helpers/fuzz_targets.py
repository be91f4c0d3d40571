"""Files that the scripts read, a toy of each, and what another reader of it expects of a run."""

import json
import re
from pathlib import Path

import yaml
from fuzz_readers import (
    NLI,
    RELEASED,
    RESULTS,
    chats_in,
    evaluated,
    exemplars,
    formatted,
    gold_and_output,
    has_scores,
    nli_prompts,
    num_judged,
    num_records,
    own_table,
    predicted,
    read_lines,
    released_scores,
    rows_trained,
    scored,
    scores_in,
    steps_in,
    steps_listed,
    study_size,
    suite_expected,
    suite_metrics,
    ticket_prompts,
    to_lines,
    write_results,
    writes,
)
from fuzzing import Target

from open_instruct.common.paths import REPOSITORY

TRAIN = [{"id": str(i), "prompt": f"The cat {i}", "completion": " sat"} for i in range(3)]
CHATS = [
    {"id": i, "messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(2)
]
SCIQ = [{"dataset": "sciq", "id": f"s-{i}", "prompt": f"The cat {i}", "completion": " Why?"} for i in range(3)]
RTE = [
    {"dataset": "rte", "id": f"r-{i}", "prompt": NLI.format(f"A cat {i}", "It sat"), "completion": f" {label}"}
    for i, label in enumerate(("entailment", "neutral"))
]
SCORES = {"entailment": -1.0, "neutral": -2.0, "contradiction": -3.0}
MIRROR = [{"sentence1": f"A cat {i} sat.", "sentence2": "It slept.", "label": i % 2, "idx": i} for i in range(4)]
TICKETS = [{"body": f"My cat {i} is late", "topic": i % 2} for i in range(4)]
DATASETS = """\
tickets:
  test: tickets.jsonl
  labels: {0: billing, 1: delivery}
  prompt: "Ticket: {text} Topic:"
  fields: {text: body, label: topic}
"""
STUDY = """\
name: toy
family: tiny
steps: [0, 20]
pretrain: {d_model: 32, num_layers: 2, num_heads: 2, vocab_size: 512, lr: 3e-3}
train_sets:
  socialiqa: {rows: [16, 32], epochs: 1, lr: 1e-3, mixed_precision: "no", warmup_ratio: 0.1}
evaluation:
  socialiqa: {formats: [default, instruct], limit: 6}
  rte: {limit: 6}
predict: {max_new_tokens: 4}
suite: {tasks: [openbookqa], limit: 6, train_sets: [socialiqa]}
margins: {accuracy: 0.03}
resources: {finetune: {time: "01:00:00", gpus: 1}}
"""
FAMILIES = """\
mine: {about: my models, hub: me/models, revision: "step{step}", tokens_per_step: 1000}
ours: {about: on disk, path: "/models/step{step}", checkpoint_format: hf, main_step: 30}
"""
BUILT_IN = set(yaml.safe_load((REPOSITORY / "open_instruct/checkpoints/families.yaml").read_text()))
CONFIG = "model_name: toy\nmodel-path: {}\ntask: [copa]\nlimit: 2\nnum_shots: 0\nuse_chat_format: false\n"
TASKS = [{"name": "copa", "limit": 2}, {"name": "piqa", "num_shots": 0, "use_chat_format": False}]
LLMBAR = [{"input": f"count to {i}", "output_1": f"{i}", "output_2": "one", "label": 1 + i % 2} for i in range(3)]
SIDECAR = {"arguments": {}, "files": {}, "inputs": {}, "identity": {"eval_set": "rte", "format": "default"}}
SIDECAR["identity"] |= {"kind": "labels", "protocol": "corrected", "role": "other"}
TEXT = [{"dataset": "heldout_text", "id": f"t-{i}", "prompt": "", "completion": f"The cat {i} sat."} for i in range(2)]
URL = "https://olmo-checkpoints.org/ai2-llm/olmo-small/w1r5xfzt/step{}-unsharded"
CHECKPOINTS = "".join(f"{step},{url}\n" for step, url in [("Step", "Checkpoint Directory")]) + "".join(
    f"{step},{URL.format(step)}/\n" for step in (1000, 2000, 18000)
)


def targets(model: Path) -> list[Target]:
    """All of them.  model: folder of a toy model"""
    finetune = (
        f"open_instruct.finetune --model_name_or_path {model} --learning_rate 1e-3 --max_train_steps 1 "
        "--output_dir {home}/base/out --max_seq_length 64 --train_file train.jsonl"
    )
    predict = f"eval.predict --model_name_or_path {model} --max_new_tokens 2 --truncate_left --output_file out.jsonl"
    suite = "olmo_eval.run_lm_eval --metrics_file metrics.json"
    format_rows = "open_instruct.format_generalization --any_row_count --source local"
    return [
        Target("train file", "train.jsonl", to_lines(TRAIN), finetune, rows_trained, num_records),
        Target("chats", "train.jsonl", to_lines(CHATS), finetune, rows_trained, num_records),
        Target(
            *("validation file", "held.jsonl", to_lines(TRAIN[:1]), f"{finetune} --validation_file held.jsonl"),
            *(lambda home, _: rows_trained(home, _) and 1, lambda content: min(num_records(content), 1)),
            writes({"train.jsonl": to_lines(TRAIN)}),
        ),
        Target("generation", "sciq.jsonl", to_lines(SCIQ), f"{predict} --input_files sciq.jsonl", predicted, evaluated),
        Target("labels", "rte.jsonl", to_lines(RTE), f"{predict} --input_files rte.jsonl", predicted, evaluated),
        Target(
            *("exemplars", "sciq.exemplars.jsonl", to_lines(SCIQ[:2])),
            f"{predict} --input_files sciq.jsonl --num_shots 1",
            *(lambda home, _: len(predicted(home, _)), lambda content: 1 + (len(exemplars(content)) < 0)),
            writes({"sciq.jsonl": to_lines(SCIQ[2:])}),
        ),
        Target(
            *("predictions", "base/sciq.jsonl", to_lines([one | {"output": "Why not?"} for one in SCIQ])),
            *("eval.eval_pred --input_files base/sciq.jsonl --num_resamples 20", scored, gold_and_output),
        ),
        Target(
            *("scores", "base/rte.jsonl", to_lines([one | {"output": "neutral", "scores": SCORES} for one in RTE])),
            *("eval.eval_pred --input_files base/rte.jsonl --num_resamples 20", scored, gold_and_output),
        ),
        Target(
            *("mirror", "mirror/nyu-mll/glue/rte/validation.jsonl", to_lines(MIRROR)),
            f"{format_rows} --eval_sets rte --local_dir mirror",
            *(lambda home, _: formatted(home / "data/evaluation/rte_anyrows.jsonl"), nli_prompts),
        ),
        Target(
            *("own chats", "chats.jsonl", to_lines(CHATS)),
            f"{format_rows} --train_sets talks --datasets_file datasets.yaml",
            lambda home, _: chats_in((home / "data/talks_anyrows.jsonl").read_bytes()),
            chats_in,
            writes({"datasets.yaml": b"talks: {train: chats.jsonl, messages: messages}"}),
        ),
        Target(
            *("own rows", "tickets.jsonl", to_lines(TICKETS)),
            f"{format_rows} --eval_sets tickets --datasets_file datasets.yaml",
            lambda home, _: formatted(home / "data/evaluation/tickets_anyrows.jsonl"),
            lambda content: ticket_prompts(yaml.safe_load(DATASETS), read_lines(content)),
            writes({"datasets.yaml": DATASETS.encode()}),
        ),
        Target(
            *("declaration", "datasets.yaml", DATASETS.encode()),
            f"{format_rows} --eval_sets tickets --datasets_file datasets.yaml",
            lambda home, _: formatted(home / "data/evaluation/tickets_anyrows.jsonl"),
            lambda content: ticket_prompts(yaml.safe_load(content), TICKETS),
            writes({"tickets.jsonl": to_lines(TICKETS)}),
        ),
        Target(
            *("study", "toy.yaml", STUDY.encode(), "scripts.run_study toy.yaml --dry_run"),
            *(lambda home, printed: printed.splitlines()[0], study_size),
        ),
        Target(
            *("families", "base/families.yaml", FAMILIES.encode()),
            "open_instruct.download_olmo_ckpts --list_families",
            lambda home, printed: {line.split()[0] for line in printed.splitlines()[1:]} - BUILT_IN,
            lambda content: set(yaml.safe_load(content)),
        ),
        Target(
            *("suite's options", "config.yaml", CONFIG.format(model).encode(), f"{suite} --config_file config.yaml"),
            *(suite_metrics, lambda content: suite_expected([{"limit": None} | yaml.safe_load(content)])),
        ),
        Target(
            *("suite's tasks", "tasks.jsonl", to_lines(TASKS)),
            f"{suite} --model_name_or_path {model} --limit 3 --task_file tasks.jsonl",
            *(
                suite_metrics,
                lambda content: suite_expected([{"limit": 3} | one for one in read_lines(content, comment="#")]),
            ),
        ),
        Target(
            *("list of checkpoints", "list.csv", CHECKPOINTS.encode()),
            "open_instruct.download_olmo_ckpts --family olmo1b --list --ckpt_csv list.csv",
            *(steps_listed, steps_in),
        ),
        Target(
            *("released tables", "tables/all_perf_table.csv", RELEASED.encode()),
            "analysis.produce_tables --released tables",
            *(released_scores, scores_in),
        ),
        Target(
            *("replaced table", f"{RESULTS}/all_perf_table.csv", own_table()),
            f"analysis.findings --folder {RESULTS}",
            *(lambda home, _: (home / RESULTS / "findings.json").is_file(), has_scores, write_results),
        ),
        Target(
            *("LLMBar", "llmbar/Natural.json", json.dumps(LLMBAR).encode()),
            f"{format_rows} --eval_sets llmbar_Natural --llmbar_dir llmbar",
            lambda home, _: len(formatted(home / "data/evaluation/llmbar_Natural_anyrows.jsonl")),
            num_judged,
        ),
        Target(
            *("text", "text.jsonl", to_lines(TEXT)),
            f"eval.perturb_weights --model_name_or_path {model} --input_file text.jsonl --num_draws 2 --sizes 0.1",
            lambda home, _: len(list((home / "base/output/perturbations").glob("*[0-9a-z].meta.json"))),
            lambda content: 1 + 0 * len(evaluated(content)),
        ),
        Target(
            *("checked data", "data/evaluation/rte.jsonl", to_lines(RTE), "open_instruct.check_data"),
            lambda home, printed: [int(n) for n in re.findall(r"^evaluation/rte +\S+ +(\d+)", printed, re.MULTILINE)],
            lambda content: [len(evaluated(content))],
            writes({"data/evaluation/rte.jsonl.meta.json": json.dumps(SIDECAR).encode()}),
        ),
    ]
