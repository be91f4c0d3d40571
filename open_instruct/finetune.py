"""Fine-tune one checkpoint on one train set: the loss is on completion (or assistant) tokens and EOS only.

Reads   a model folder in transformers format and a train file (JSON lines with prompt/completion or messages).
Writes  output/{model_id}/: weights, tokenizer, training_log.jsonl, meta.json.

    python open_instruct/finetune.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --train_file data/socialiqa.jsonl --learning_rate 1e-3 --num_train_epochs 2

Several processes: `accelerate launch --num_processes 2 open_instruct/finetune.py …`; the result does not depend on how
many (beyond float noise): the loss is averaged over all target tokens of an optimiser step.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from open_instruct.checkpoints import Checkpoint
from open_instruct.cli import run
from open_instruct.encode import IGNORED, Encoded, encode_examples
from open_instruct.paths import fine_tuned_model
from open_instruct.records import Artifact, UserError, read_jsonl, read_sidecar, sidecar_path
from open_instruct.study import DEFAULT_SEED, Variant


@dataclass(frozen=True)
class Args:
    model_name_or_path: str
    """Folder (or Hub name) of the model, in transformers format."""
    train_file: Path
    """Records made by format_generalization.py."""
    learning_rate: float
    """Peak learning rate; linear warm-up, then linear decay to 0."""
    num_train_epochs: int
    output_dir: Path | None = None
    """Default: output/{model_id}, named from the checkpoint, the train set and the recipe."""
    max_train_rows: int | None = None
    """Train on this many rows from the beginning of the file (None: all)."""
    num_validation_rows: int = 0
    """Hold back this many rows from the end of the file; their loss is logged before training and after each epoch."""
    total_batch_size: int = 8
    """Examples per optimiser step, over all processes."""
    per_device_train_batch_size: int = 8
    """Examples that one process holds at once; does not change the result."""
    max_seq_length: int = 2048
    """Longest example in tokens; a longer one loses the beginning of its prompt, never its answer."""
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """On a GPU that has it, `bf16` is the study's setting; on the CPU it is often slower than full precision."""
    seed: int = DEFAULT_SEED
    """Order of the examples."""
    overwrite: bool = False
    """Train again where other arguments made the output."""


def main(args: Args) -> None:
    variant = variant_of(args)
    artifact = Artifact(
        output_dir(args, variant),
        arguments=training_arguments(args),
        inputs=local_inputs(args),
        identity=variant.identity() if variant else {"model_id": output_dir(args, variant).name},
    )
    if artifact.is_done(overwrite=args.overwrite):
        print(f"done already: {artifact.path}")
        return
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    set_seed(args.seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, dtype=torch.float32)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{args.model_name_or_path} is neither a model folder nor a model of the Hub: {reason}"
        ) from error
    train, validation, num_cut = load_examples(args, tokenizer)
    # Every process waits for rank 0 to clear the folder, and rank 0 alone writes.
    if not accelerator.is_main_process:
        fit(args, accelerator, model, train, validation)
        return
    with artifact.making(is_folder=True) as facts:
        log = fit(args, accelerator, model, train, validation)
        facts.update(rows=len(train), examples_cut=num_cut, final=log[-1])
        (artifact.path / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        model.save_pretrained(artifact.path)
        tokenizer.save_pretrained(artifact.path)
    print(f"wrote {artifact.path}")


def variant_of(args: Args) -> Variant | None:
    """The identity of what is being made; None where the model or the data did not come from this project."""
    folder, train_file = Path(args.model_name_or_path), args.train_file
    if not sidecar_path(folder).is_file() or not sidecar_path(train_file).is_file():
        return None
    base, data = read_sidecar(folder)["identity"], read_sidecar(train_file)["identity"]
    checkpoint = Checkpoint(base["family"], base["step"])
    return Variant(checkpoint, data["train_set"], args.num_train_epochs, args.learning_rate, args.seed)


def output_dir(args: Args, variant: Variant | None) -> Path:
    if args.output_dir is None and variant is None:
        raise UserError("the model or the train file has no sidecar, so the output has no name; give --output_dir")
    return args.output_dir or (variant.folder if variant else fine_tuned_model("unnamed"))


def training_arguments(args: Args) -> dict:
    """What decides the weights. Where things lie and how many examples are held at once does not."""
    without = ("model_name_or_path", "train_file", "output_dir", "per_device_train_batch_size", "overwrite")
    return {name: value for name, value in asdict(args).items() if name not in without}


def local_inputs(args: Args) -> dict[str, Path]:
    """Raises UserError where the train file is missing or the model folder is in OLMo's own format."""
    folder = Path(args.model_name_or_path)
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format; convert it first: "
            f"python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --output_dir …"
        )
    if not args.train_file.is_file():
        raise UserError(
            f"{args.train_file}: no such train file; make it with "
            f"`python open_instruct/format_generalization.py --train_sets {args.train_file.stem}`"
        )
    return {"train_file": args.train_file} | ({"model": folder} if folder.is_dir() else {})


def load_examples(args: Args, tokenizer) -> tuple[list[Encoded], list[Encoded], int]:
    records = list(read_jsonl(args.train_file, required=("id",)))
    num_train = len(records) - args.num_validation_rows
    num_train = min(num_train, args.max_train_rows or num_train)
    if num_train < 1 or num_train < (args.max_train_rows or 0):
        raise UserError(
            f"{args.train_file}: {len(records)} rows, {args.num_validation_rows} of them held back; "
            f"expected at least {args.max_train_rows or 1} to train on"
        )
    validation_records = records[len(records) - args.num_validation_rows :]
    train, num_cut = encode_examples(tokenizer, records[:num_train], max_length=args.max_seq_length)
    validation, _ = encode_examples(tokenizer, validation_records, max_length=args.max_seq_length)
    return train, validation, num_cut


class TargetLoss(nn.Module):
    """A causal language model that returns the summed loss of its targets, and projects nothing else."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """ids, labels: (batch, seq), padded on the right.  -> () nats, summed over targets."""
        # Causal attention never looks right, so padding there needs no mask.
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # (batch, seq-1, d)
        targets = labels[:, 1:]
        is_target = targets != IGNORED
        logits = self.model.get_output_embeddings()(hidden[is_target]).float()  # (targets, vocabulary)
        return cross_entropy(logits, targets[is_target], reduction="sum")


def fit(
    args: Args, accelerator: Accelerator, model, train: Sequence[Encoded], validation: Sequence[Encoded]
) -> list[dict]:
    """Train `model` in place; returns the log, one dict an optimiser step."""
    order = example_order(len(train), num_epochs=args.num_train_epochs, seed=args.seed)
    steps = [order[i : i + args.total_batch_size] for i in range(0, len(order), args.total_batch_size)]
    module, optimizer = accelerator.prepare(
        TargetLoss(model),
        torch.optim.AdamW(
            model.parameters(), lr=args.learning_rate, betas=(0.9, 0.999), weight_decay=args.weight_decay, fused=True
        ),
    )
    num_warmup = round(args.warmup_ratio * len(steps))
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=num_warmup, num_training_steps=len(steps))
    log: list[dict] = []
    if validation:
        log.append({"step": 0, "validation_loss": mean_loss(module, validation, accelerator.device)})
    started, num_tokens = time.monotonic(), 0
    module.train()
    for number, indices in enumerate(
        tqdm(steps, unit="step", disable=None if accelerator.is_main_process else True), start=1
    ):
        examples = [train[i] for i in indices]
        num_targets = sum(example.num_targets for example in examples)
        loss = torch.zeros((), device=accelerator.device)
        for micro in micro_batches(args, accelerator, examples):
            ids, labels = collate(micro, accelerator.device)
            with accelerator.autocast():
                total = module(ids, labels)
            # Data parallelism averages gradients over processes; the loss is a mean over all target tokens.
            accelerator.backward(total * accelerator.num_processes / num_targets)
            loss += total.detach() / num_targets
        grad_norm = accelerator.clip_grad_norm_(module.parameters(), args.max_grad_norm)
        optimizer.step()
        lr = scheduler.get_last_lr()[0]
        scheduler.step()
        optimizer.zero_grad()
        num_tokens += sum(len(example.ids) for example in examples)
        log.append(
            {
                "step": number,
                "loss": round(accelerator.reduce(loss, "sum").item(), 5),  # pyright: ignore[reportAttributeAccessIssue]
                "lr": lr,
                "grad_norm": round(float(grad_norm or 0.0), 4),
                "tokens_per_second": round(num_tokens / (time.monotonic() - started)),
            }
        )
        if validation and (number * args.total_batch_size) % len(train) < args.total_batch_size:
            log[-1]["validation_loss"] = mean_loss(module, validation, accelerator.device)
    return log


def example_order(num_rows: int, *, num_epochs: int, seed: int) -> list[int]:
    """Row numbers of all epochs, each epoch in its own seeded order."""
    epochs = [random.Random(f"{seed}-{epoch}").sample(range(num_rows), num_rows) for epoch in range(num_epochs)]
    return [row for epoch in epochs for row in epoch]


def micro_batches(args: Args, accelerator: Accelerator, examples: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """This process's share of an optimiser step. All processes get as many; one without an example gets one to skip."""
    size, world, rank = args.per_device_train_batch_size, accelerator.num_processes, accelerator.process_index
    nothing = Encoded(examples[0].ids, [IGNORED] * len(examples[0].ids))
    for first in range(0, len(examples), size * world):
        # Shorter beside shorter: less padding, the same examples in the step.
        share = sorted(examples[first : first + size * world], key=lambda example: len(example.ids))
        part = -(-len(share) // world)
        yield share[rank * part : (rank + 1) * part] or [nothing]


def collate(examples: Sequence[Encoded], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids and labels, padded on the right.  -> (batch, seq), (batch, seq)"""
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return ids.to(device), labels.to(device)


@torch.no_grad()
def mean_loss(module: nn.Module, examples: Sequence[Encoded], device: torch.device, *, batch_size: int = 32) -> float:
    """Nats per target token."""
    module.eval()
    ordered = sorted(examples, key=lambda example: len(example.ids))
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    total = sum(module(*collate(batch, device)).item() for batch in batches)
    module.train()
    return round(total / sum(example.num_targets for example in examples), 5)


if __name__ == "__main__":
    run(main, Args)
