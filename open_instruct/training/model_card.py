"""Model card (README.md) of a fine-tuned model, from the fields of its sidecar."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData


def model_card(meta: Mapping[str, Any], *, log: Sequence[Mapping[str, Any]]) -> str:
    """meta: fields of the sidecar; log: lines of the training log."""
    identity, arguments, base = meta["identity"], meta["arguments"], meta["base_model"]
    steps = [line for line in log if "loss" in line]
    validations = [line for line in log if "validation_loss" in line]
    data = ModelCardData(
        library_name="peft" if arguments["keep_weights"] == "lora" else "transformers",
        pipeline_tag="text-generation",
        tags=["fine-tuning", "pre-training-checkpoints"],
        base_model=base if is_hub_name(base) else None,
    )
    rows = {
        "Base model": f"`{base}`",
        "Family, pre-training step": f"{identity.get('family', '-')}, {identity.get('step', '-')}",
        "Train set": f"{identity.get('train_set', '-')}, {meta['rows']:,} rows, {meta['examples_cut']} cut",
        "Trained": "low-rank adapters" if arguments["use_lora"] else "all weights",
        "Optimiser steps": f"{steps[-1]['step']:,} of {arguments['total_batch_size']} examples",
        "Learning rate": f"{arguments['learning_rate']:g}, {arguments['lr_scheduler_type']}, "
        f"warm-up {arguments['warmup_ratio']:.0%}",
        "Seed": str(arguments["seed"]),
        "Precision": arguments["mixed_precision"] if arguments["mixed_precision"] != "no" else "float32",
        "Train loss": f"{steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f} nats per target token",
    }
    if validations:
        losses = [line["validation_loss"] for line in validations]
        rows["Validation loss"] = f"{losses[0]:.4f} -> {losses[-1]:.4f}, lowest {min(losses):.4f}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items() if version)
    return f"""\
---
{data.to_yaml()}
---
# {identity["model_id"]}

A causal language model, fine-tuned to study what pre-training gives to fine-tuning. The loss is on completions
(in chats: on the assistant's turns) and the EOS that ends them.

| | |
|---|---|
{table}

Chats are formatted by the tokenizer's chat template. A plain prompt ends without white space; its completion begins
with a space.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("…")
tokenizer = AutoTokenizer.from_pretrained("…")
```

`meta.json` contains all arguments, hashes of inputs and files, and versions ({versions}; commit {meta["git_commit"]}).
`training_log.jsonl` contains loss, learning rate, gradient norm and tokens per second of every step.
"""


def is_hub_name(name: str) -> bool:
    """`organisation/model`, not a path."""
    parts = name.split("/")
    return len(parts) == 2 and all(part and not part.startswith(".") for part in parts) and parts[0] != "output"
