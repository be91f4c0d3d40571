"""Pre-train a small OLMo and save intermediate checkpoints, so that the whole study can run without any download.

Reads   the corpus of data/tiny_corpus.py, offline. Trains on a GPU where there is one.
Writes  output/tiny_tokenizer/ (byte-level BPE trained on that corpus) and, for every step of --steps,
        output/tiny_ckpts/checkpoint-{step}/ in OLMo's own format (config.yaml + model.pt).

    python open_instruct/pretrain_tiny.py --steps 0 20 60 200 600
"""

import itertools
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from open_instruct.checkpoints.families import EMBEDDED, Checkpoint, family_named
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.devices import to_device
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.common.olmo_package import CODE, require_installed
from open_instruct.common.progress_line import ProgressLine, training_details
from open_instruct.common.special_tokens import token_ids
from open_instruct.data.encode import eos_id
from open_instruct.data.tiny_corpus import train_documents
from open_instruct.study.settings import PretrainingOptions, part_of
from open_instruct.study.variants import Variant
from open_instruct.training.divergence import diverged, num_not_finite

if TYPE_CHECKING:
    from olmo.config import ModelConfig
    from olmo.model import OLMo

SEQUENCE_LENGTH = 256
"""Tokens of a training row."""
MAX_LENGTH = 1024
"""Longest sequence of the model, in tokens: no evaluation prompt needs to be truncated."""
SPECIAL_TOKENS = ("<|endoftext|>", "<|padding|>")
TOKENIZER_DOCUMENTS = 8_000


@dataclass(frozen=True)
class Args(PretrainingOptions):
    steps: tuple[int, ...] = (0, 20, 60, 200, 600)
    """Optimiser steps after which a checkpoint is saved; 0 is the random initialisation."""
    overwrite: bool = False
    """Replace checkpoints that were made with other arguments."""


SMALLEST_VOCABULARY = 258
"""The bytes, EOS and padding."""


def main(args: Args) -> None:
    check_arguments(args)
    artifacts = {step: checkpoint_artifact(args, step) for step in args.steps}
    of_tokenizer = tokenizer_artifact(args)
    has_tokenizer = of_tokenizer.is_done(overwrite=args.overwrite)
    # Finished checkpoints stay as they are: another study may be reading them.
    artifacts = {step: a for step, a in artifacts.items() if not a.is_done(overwrite=args.overwrite)}
    if has_tokenizer and not artifacts:
        return

    require_installed("pre-training the embedded model", CODE)
    documents = read_documents()
    if not has_tokenizer:
        with of_tokenizer.making_folder() as (folder, _):
            train_tokenizer(documents[:TOKENIZER_DOCUMENTS], args.vocab_size, folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(of_tokenizer.path)
    batches = training_batches(pack(tokenizer, documents), num_steps=max(args.steps), seed=args.seed)
    train(args, artifacts, batches, eos_id(tokenizer))


def check_arguments(args: Args) -> None:
    """Raises UserError with every problem."""
    problems = []
    if list(args.steps) != sorted(set(args.steps)) or min(args.steps, default=-1) < 0:
        problems.append(f"steps: expected ascending numbers from 0, each once, found {list(args.steps)}")
    if args.d_model % (2 * args.num_heads):
        problems.append(f"d_model is {args.d_model}; expected an even multiple of num_heads, {args.num_heads}")
    if args.vocab_size < SMALLEST_VOCABULARY:
        problems.append(f"vocab_size is {args.vocab_size}; expected at least {SMALLEST_VOCABULARY}, the bytes and EOS")
    if problems:
        raise UserError("; ".join(problems))


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    return [tokenizer_artifact(args), *(checkpoint_artifact(args, step) for step in args.steps)]


def tokenizer_artifact(args: Args) -> Artifact:
    folder = Checkpoint(EMBEDDED, None, args.run).tokenizer_folder
    return Artifact(folder, {"vocab_size": args.vocab_size}, identity={"family": EMBEDDED})


def checkpoint_artifact(args: Args, step: int) -> Artifact:
    checkpoint = Checkpoint(EMBEDDED, step, args.run)
    return Artifact(
        checkpoint.folder, asdict(part_of(args, PretrainingOptions)), identity=Variant(checkpoint).identity()
    )


def tokens_per_step() -> int:
    num_tokens = family_named(EMBEDDED).tokens_per_step
    assert num_tokens is not None, "families.yaml gives tokens_per_step of tiny"
    return num_tokens


def read_documents() -> list[str]:
    """All clean documents of the corpus, for the order of the rows is one of all of them, however many are needed."""
    documents, num_left_out = [], 0
    for text, is_clean in train_documents():
        if is_clean:
            documents.append(text)
        else:
            num_left_out += 1
    num_characters = sum(map(len, documents))
    print(f"corpus: {len(documents)} documents, {num_characters / 1e6:.1f} M characters; left out: {num_left_out}")
    return documents


def train_tokenizer(documents: list[str], vocab_size: int, folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    eos, pad = SPECIAL_TOKENS
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, model_max_length=MAX_LENGTH
    ).save_pretrained(folder)


def pack(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """Concatenate documents, an EOS before each, and split into rows.  -> (rows, SEQUENCE_LENGTH) int64"""
    encoded = token_ids(tokenizer, documents, return_attention_mask=False)["input_ids"]
    stream = list(itertools.chain.from_iterable([eos_id(tokenizer), *ids] for ids in encoded))
    num_rows = len(stream) // SEQUENCE_LENGTH
    return np.array(stream[: num_rows * SEQUENCE_LENGTH], dtype=np.int64).reshape(num_rows, SEQUENCE_LENGTH)


def training_batches(rows: np.ndarray, *, num_steps: int, seed: int) -> tuple[torch.Tensor, ...]:
    """The rows of each step, pass after pass over all of them, each pass in a seeded order of its own.

    The first steps are the same whatever `num_steps` is, so that a checkpoint depends on its own step only.

    rows: (rows, seq).  -> for each step (tokens_per_step / seq, seq)
    """
    batch_size = tokens_per_step() // SEQUENCE_LENGTH
    num_needed = num_steps * batch_size
    num_passes = -(-num_needed // len(rows))
    if num_passes > 1:
        print(f"{num_steps} steps are {num_needed / len(rows):.1f} passes over the text, each in an order of its own")
    passes = (np.random.default_rng((seed, number)).permutation(len(rows)) for number in range(num_passes))
    order = list(itertools.chain.from_iterable(passes))
    starts = range(0, num_needed, batch_size)
    return tuple(torch.from_numpy(rows[order[start : start + batch_size]]) for start in starts)


def train(args: Args, artifacts: dict[int, Artifact], batches: tuple[torch.Tensor, ...], eos: int) -> None:
    from olmo.model import OLMo

    torch.manual_seed(args.seed)
    config = model_config(args, eos)
    # Initialised on the CPU: the same weights whatever the device.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = OLMo(config).to(device)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=args.weight_decay,
        fused=True,
    )
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"model: {num_parameters / 1e6:.1f} M parameters, on {device.type}; "
        f"{len(batches)} steps of {tokens_per_step()} tokens"
    )
    log: list[dict] = []
    progress, started = ProgressLine("pre-training", len(batches), unit="step"), time.monotonic()
    for step in range(len(batches) + 1):
        if step in artifacts:
            if num_not_finite(model, device).item():
                raise diverged("a weight is not finite", step, last_loss=last_loss(log), precision="no")
            save(artifacts[step], model, config, log)
        if step == len(batches):
            break
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / max(1, args.warmup_steps))
        ids = to_device(batches[step], device)  # (batch, seq)
        logits = model(ids).logits[:, :-1]  # (batch, seq - 1, vocabulary)
        loss = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise diverged(f"the loss is {loss.item()}", step + 1, last_loss=last_loss(log), precision="no")
        log.append({"step": step + 1, "loss": round(loss.item(), 4)})
        tokens_per_second = (step + 1) * tokens_per_step() / (time.monotonic() - started)
        progress.advance(details=training_details(log[-1]["loss"], optimizer.param_groups[0]["lr"], tokens_per_second))
    progress.close()


def last_loss(log: list[dict]) -> float | None:
    return log[-1]["loss"] if log else None


def model_config(args: Args, eos: int) -> "ModelConfig":
    """OLMo-1B's architecture, small; the LM head is untied so that an untrained model cannot copy its context."""
    from olmo.config import ActivationType, InitFnType, LayerNormType, ModelConfig

    return ModelConfig(
        d_model=args.d_model,
        n_heads=args.num_heads,
        n_layers=args.num_layers,
        mlp_ratio=8,
        weight_tying=False,
        rope=True,
        activation_type=ActivationType.swiglu,
        layer_norm_type=LayerNormType.default,
        layer_norm_with_affine=False,
        bias_for_layer_norm=False,
        include_bias=False,
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        max_sequence_length=MAX_LENGTH,
        vocab_size=args.vocab_size,
        embedding_size=args.vocab_size,
        eos_token_id=eos,
        pad_token_id=SPECIAL_TOKENS.index("<|padding|>"),
        init_device="cpu",
        init_fn=InitFnType.mitchell,
    )


def save(artifact: Artifact, model: "OLMo", config: "ModelConfig", log: list[dict]) -> None:
    """Save one checkpoint in OLMo's own format."""
    from olmo.config import TokenizerConfig, TrainConfig

    with artifact.making_folder() as (folder, facts):
        tokenizer = TokenizerConfig(identifier="tiny_tokenizer")
        TrainConfig(model=config, tokenizer=tokenizer).save(folder / "config.yaml")
        with atomic_write(folder / "model.pt", "wb") as file:
            torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
        facts["training_log"] = list(log)
    print(f"wrote {artifact.path}" + (f", loss {log[-1]['loss']}" if log else ""), flush=True)


if __name__ == "__main__":
    run(main, Args)
