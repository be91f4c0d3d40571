"""One architecture through finetune.py and predict.py, against transformers' plain forward pass of one text alone."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import architectures
import torch
from peft import LoraConfig, get_peft_model
from toy_evaluation import read_records, write_evaluation
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from eval import predict
from open_instruct import finetune
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.sidecars import read_sidecar
from open_instruct.training.adapters import not_adapted
from open_instruct.training.arguments import Args

TOLERANCE = 2e-4
"""Nats of a log-likelihood, and nats per token of a loss. Float noise is below 1e-4; what examples see of each other, a
head that is left out or a mask that is missing changes these models by 1e-2 and more."""
AFTER_STEPS = 5e-3
"""Nats per token of a loss after steps of AdamW, which divides noise by its own size; two steps lower losses by one."""
LEARNING_RATE, RANK, SEED, NEW_TOKENS = 1e-2, 4, 42, 6
TRAIN = [
    ("The cat sat", " on the mat"),
    ("### Input: Jordan left the party early.\n ### Question:", " Why did Jordan do this?"),
    ("The dog", " sat on the cat, and the dog sat"),
    ("yes or", " no"),
]
NLI = "### Input_1: A man is {}.\n ### Input_2: A man is {}.\n ### Inference:"
LABELS = [
    ("rte", NLI.format("eating", "sleeping"), " entailment"),
    ("rte", NLI.format("eating", "eating, or a woman is"), " neutral"),
    ("rte", "The cat:", " neutral"),
    ("rte", "The cat sat on the mat:", " entailment"),
]
PROMPTS = [
    ("sciq", "The cat sat on the mat, and the dog", " sat on the cat"),
    ("sciq", "The cat sat on the mat", ", and so"),
    ("sciq", "The cat sat on the mat, and the dog sat on the cat. The man is", " eating"),
    ("sciq", "yes", " or no"),
    ("sciq", "Does one thing follow from another? yes or no, entailment or neutral", "."),
]
CHECKS = ("labels", "generation", "padded", "packed", "lora")


@dataclass(frozen=True)
class Outcome:
    kind: str
    """right, refused, or wrong: the third is a fault."""
    text: str = ""
    """The refusal, what is wrong, or how it was computed, as the sidecar says."""


class Wrong(AssertionError):
    """What was computed is not what transformers computes."""


def outcomes(name: str, folder: Path) -> dict[str, Outcome]:
    """Every check of one entry of architectures.yaml, in `folder`, which is the current base_dir."""
    architectures.build(folder / "model", name)
    return outcomes_of_model(folder)


def outcomes_of_model(folder: Path) -> dict[str, Outcome]:
    """Every check of the model in `folder`/model, which has a toy tokenizer.  folder: the current base_dir."""
    write_evaluation(folder / "rte.jsonl", LABELS)
    write_evaluation(folder / "sciq.jsonl", PROMPTS)
    rows = [{"id": str(i), "prompt": p, "completion": c} for i, (p, c) in enumerate(TRAIN)]
    write_jsonl(folder / "train.jsonl", rows)
    lora = {"use_lora": True, "lora_rank": RANK, "lora_alpha": 8, "lora_dropout": 0.0}
    checks: dict[str, Callable[[Path], str]] = {
        "labels": check_labels,
        "generation": check_generation,
        "padded": partial(check_training, name="padded"),
        "packed": partial(check_training, name="packed", packing=True),
        "lora": partial(check_training, name="lora", **lora),
    }
    return {check: outcome(run, folder) for check, run in checks.items()}


def outcome(check: Callable[[Path], str], folder: Path) -> Outcome:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return Outcome("right", check(folder))
    except UserError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("wrong", f"{type(error).__name__}: {error}".splitlines()[0])


def plain(folder: Path) -> tuple[Any, Any]:
    """The model as transformers loads it, and the tokenizer as its file says, whatever class the type has."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)


@torch.no_grad()
def log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    """Of every next token, from the text alone.  -> (tokens, vocabulary)"""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)


def log_likelihood(model: Any, context: list[int], continuation: list[int]) -> float:
    of_next = log_probs(model, context + continuation)[len(context) - 1 : -1]
    return of_next.gather(-1, torch.tensor(continuation)[:, None]).sum().item()


def predicted(folder: Path, name: str) -> tuple[Path, list[tuple[dict[str, Any], list[int]]]]:
    """The prediction file of an evaluation file; its records, each with the ids of its prompt."""
    output, model = folder / f"{name}.out.jsonl", folder / "model"
    evaluation = (folder / f"{name}.jsonl",)
    predict.main(predict.Args(str(model), evaluation, output_file=output, max_new_tokens=NEW_TOKENS))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    return output, [(record, tokenizer(record["prompt"])["input_ids"]) for record in read_records(output)]


def check_labels(folder: Path) -> str:
    """-> how log-likelihoods were computed"""
    model, tokenizer = plain(folder / "model")
    output, records = predicted(folder, "rte")
    for record, context in records:
        for label, found in record["scores"].items():
            require_near(found, log_likelihood(model, context, tokenizer(f" {label}")["input_ids"]), f"label {label}")
    return read_sidecar(output)["computed_by"]["log-likelihoods"]


def check_generation(folder: Path) -> str:
    """-> how texts were generated"""
    model, tokenizer = plain(folder / "model")
    output, records = predicted(folder, "sciq")
    for record, context in records:
        gold = tokenizer(record["completion"])["input_ids"]
        require_near(record["gold_logprob"], log_likelihood(model, context, gold), "gold completion")
        expected, is_tie = greedy(model, context, tokenizer.eos_token_id)
        if not is_tie and record["output"] != tokenizer.decode(expected, skip_special_tokens=True).strip():
            raise Wrong(f"{record['output']!r} after {record['prompt']!r}, expected {tokenizer.decode(expected)!r}")
    return read_sidecar(output)["computed_by"]["generation"]


def greedy(model: Any, context: list[int], eos_id: int) -> tuple[list[int], bool]:
    """Ids of greedy decoding by plain passes, and whether two tokens were equal up to float noise on the way."""
    ids, is_tie = list(context), False
    for _ in range(NEW_TOKENS):
        best = log_probs(model, ids)[-1].topk(2)
        is_tie |= bool(best.values[0] - best.values[1] < TOLERANCE)
        if best.indices[0] == eos_id:
            break
        ids.append(int(best.indices[0]))
    return ids[len(context) :], is_tie


def check_training(folder: Path, name: str, **options: Any) -> str:
    """Two optimiser steps on all examples: both losses, the loss afterwards, and the saved model.

    -> how losses were computed
    """
    output = folder / name
    args = Args(
        str(folder / "model"),
        folder / "train.jsonl",
        learning_rate=LEARNING_RATE,
        num_train_epochs=2,
        total_batch_size=len(TRAIN),
        validation_file=folder / "train.jsonl",
        output_dir=output,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        checkpointing_steps="never",
        seed=SEED,
        **options,
    )
    finetune.main(args)
    log = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    after = [line["validation_loss"] for line in log if "validation_loss" in line][-1]
    expected = plain_losses(folder / "model", use_lora="use_lora" in options)
    require_near(losses[0], expected[0], "loss of step 1")
    require_near(losses[1], expected[1], "loss of step 2", AFTER_STEPS)
    require_near(after, expected[2], "loss after it", AFTER_STEPS)
    if expected[0] - expected[-1] < 20 * AFTER_STEPS:
        raise Wrong(f"two steps lower the loss from {expected[0]:.3f} to {expected[-1]:.3f} only")
    require_near(plain_loss(*plain(output)), after, "loss of the saved model")
    return read_sidecar(output)["computed_by"]


def examples(tokenizer: Any) -> list[tuple[list[int], int]]:
    """Ids of each example, and the number of its prompt's."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in TRAIN]
    completions = [tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id] for _, completion in TRAIN]
    return [(prompt + completion, len(prompt)) for prompt, completion in zip(prompts, completions, strict=True)]


def plain_loss(model: Any, tokenizer: Any) -> float:
    """Nats per target."""
    losses = [-log_likelihood(model, ids[:start], ids[start:]) for ids, start in examples(tokenizer)]
    return sum(losses) / sum(len(ids) - start for ids, start in examples(tokenizer))


def plain_losses(folder: Path, *, use_lora: bool) -> list[float]:
    """Nats per target before, between and after two steps of AdamW, one example at a time."""
    model, tokenizer = plain(folder)
    set_seed(SEED)
    if use_lora:
        linear: dict[str, Any] = {"target_modules": "all-linear", "exclude_modules": not_adapted(model) or None}
        adapters = LoraConfig(r=RANK, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **linear)
        model = get_peft_model(model, adapters)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    num_targets = sum(len(ids) - start for ids, start in examples(tokenizer))
    losses = []
    for _ in range(2):
        losses.append(0.0)
        for ids, start in examples(tokenizer):
            of_next = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)[start - 1 : -1]
            loss = -of_next.gather(-1, torch.tensor(ids[start:])[:, None]).sum() / num_targets
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        optimizer.zero_grad()
    return [*losses, plain_loss(model.eval(), tokenizer)]


def require_near(found: float, expected: float, what: str, tolerance: float = TOLERANCE) -> None:
    if not abs(found - expected) <= tolerance:  # NaN is not
        raise Wrong(f"{what} {found:.4f}, expected {expected:.4f}")
