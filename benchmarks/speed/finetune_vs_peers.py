"""Fine-tuning speed of open_instruct.training, transformers' Trainer and TRL's SFTTrainer: same model and examples.

Each trainer runs in its own process, one after the other, with the same weights, examples, order, batches, schedule and
precision, and its best settings. Prints examples per second, the ratio to either peer, the largest difference of the
losses, and the share of the machine's speed of large matrix products.

Needs TRL (pip install trl==1.16.0).  Writes nothing but a temporary folder.

    python benchmarks/speed/finetune_vs_peers.py --settings fp32-short
"""

import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY
from open_instruct.data.encode import IGNORED, Encoded

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

VOCABULARY = 50_304
"""Of models.random_olmo."""
LEARNING_RATE, WARMUP_STEPS = 1e-4, 2
NUM_UNTIMED = 2
"""First steps, in which memory is allocated."""


@dataclass(frozen=True)
class Setting:
    precision: Literal["no", "bf16"]
    batch_size: int
    num_tokens: tuple[int, int]
    """Of the shortest and the longest example."""
    num_targets: tuple[int, int]


SHORT, LONG = (8, (45, 75), (9, 17)), (4, (900, 1100), (90, 130))
SETTINGS = {
    "fp32-short": Setting("no", *SHORT),
    "fp32-long": Setting("no", *LONG),
    "bf16-short": Setting("bf16", *SHORT),
    "bf16-long": Setting("bf16", *LONG),
}


@dataclass(frozen=True)
class Args:
    settings: tuple[Literal["fp32-short", "fp32-long", "bf16-short", "bf16-long"], ...] = tuple(SETTINGS)  # pyright: ignore
    """Precision and length: 8 short examples of about 60 tokens in a batch, or 4 long ones of about 1,000."""
    num_steps: int = 12
    repeats: int = 2
    """Runs of each trainer; the fastest counts."""
    packing: bool = False
    """Pack our batches instead of padding them as the peers do; lengths are alike, so that padding costs little."""
    num_threads: int = os.cpu_count() or 1


def main(args: Args) -> None:
    os.environ.update(OMP_NUM_THREADS=str(args.num_threads), TOKENIZERS_PARALLELISM="false")
    peaks = {"no": matmul_speed("float32", args.num_threads), "bf16": matmul_speed("bfloat16", args.num_threads)}
    speeds = ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in peaks.items())
    print(f"{args.num_threads} threads; speed of matrix products: {speeds}")
    for name in args.settings:
        with tempfile.TemporaryDirectory() as folder:
            compare(args, name, Path(folder), peaks[SETTINGS[name].precision])


def compare(args: Args, name: str, folder: Path, peak: float) -> None:
    from models import random_olmo

    setting = SETTINGS[name]
    rows = make_examples(setting, num_steps=args.num_steps)
    # Initialised as for training: the losses begin at the logarithm of the vocabulary's size.
    model = random_olmo(initializer_range=0.02, num_attention_heads=4, eos_token_id=2)
    model.save_pretrained(folder / "model")
    seconds: dict[str, float] = dict.fromkeys(TRAINERS, math.inf)
    losses: dict[str, list[float]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for _ in range(args.repeats):
            for trainer, train in TRAINERS.items():
                steps, losses[trainer] = processes.submit(train, args, setting, rows, folder).result()
                seconds[trainer] = min(seconds[trainer], median(steps[NUM_UNTIMED:]))
    batch_size = setting.batch_size
    print(f"\n{name}: batches of {batch_size}, {sum(len(row.ids) for row in rows) / len(rows):.0f} tokens an example")
    for trainer in TRAINERS:
        difference = max(abs(a - b) / b for a, b in zip(losses["ours"], losses[trainer], strict=True))
        print(
            f"  {trainer:<8} {batch_size / seconds[trainer]:7.2f} examples/s"
            f"   ours is {seconds[trainer] / seconds['ours']:5.2f} x as fast"
            f"   loss {losses[trainer][0]:.4f} -> {losses[trainer][-1]:.4f}, at most {difference:.2%} from ours"
        )
    share = flops_a_step(rows[-batch_size:], model.config) / seconds["ours"] / peak
    print(f"  ours reaches {share:.0%} of the speed of matrix products", flush=True)


def make_examples(setting: Setting, *, num_steps: int) -> list[Encoded]:
    """Random tokens; examples of a batch have similar lengths, as with Trainer's grouping by length."""
    rng = random.Random(0)
    size = setting.batch_size
    lengths = sorted(rng.randint(*setting.num_tokens) for _ in range(num_steps * size))
    batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    rng.shuffle(batches)
    rows = []
    for length in (length for batch in batches for length in batch):
        # Zipf-like, as text is, so that the loss falls within a few steps.
        ids = [int(VOCABULARY ** rng.random()) - 1 for _ in range(length)]
        num_targets = rng.randint(*setting.num_targets)
        rows.append(Encoded(ids, [IGNORED] * (length - num_targets) + ids[-num_targets:]))
    return rows


def ours(args: Args, setting: Setting, rows: list[Encoded], folder: Path) -> tuple[list[float], list[float]]:
    from open_instruct.common.model_loading import load_model
    from open_instruct.training.attention import WITHOUT_MASK

    model = load_model(folder / "model")
    if args.packing:
        model.set_attn_implementation(WITHOUT_MASK)
    options = {"mixed_precision": setting.precision, "packing": args.packing}
    warmup_ratio = WARMUP_STEPS / args.num_steps
    return fine_tune(model, rows, setting.batch_size, folder, warmup_ratio=warmup_ratio, **options)


def fine_tune(
    model: Any,
    rows: list[Encoded],
    batch_size: int,
    folder: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> tuple[list[float], list[float]]:
    """Fine-tune by open_instruct.training, with `options` of finetune.py.  -> seconds and loss of each step"""
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    from open_instruct.training.arguments import Args as TrainingArgs
    from open_instruct.training.data import Examples, as_table
    from open_instruct.training.loop import Run, fit, prepare
    from open_instruct.training.loss import TargetLoss
    from open_instruct.training.state import State

    class Clock(GeneralTracker):
        name, requires_logging_directory, tracker = "clock", False, None

        def store_init_configuration(self, values: dict) -> None:
            pass

        def log(self, values: dict, step: int | None = None, **_: Any) -> None:
            times.append(clock())

    training = TrainingArgs(
        model_name_or_path="",
        train_file=folder / "unused.jsonl",
        learning_rate=LEARNING_RATE,
        total_batch_size=batch_size,
        checkpointing_steps="never",
        resume_from_checkpoint="no",
        **options,
    )
    accelerator = Accelerator(mixed_precision=training.mixed_precision, log_with=Clock())
    accelerator.init_trackers("benchmark")
    steps = [list(range(i, i + batch_size)) for i in range(0, len(rows), batch_size)]
    module, optimizer, scheduler = prepare(training, accelerator, TargetLoss(model), num_steps=len(steps))
    state = State(folder / "ours", accelerator, arguments={}, inputs={})
    train = Examples(as_table(rows))
    times = [clock()]
    fitted = fit(Run(training, accelerator, module, optimizer, scheduler, steps, train, None, state, lambda _: None))
    accelerator.free_memory()
    return differences(times), [line["loss"] for line in fitted.log]


def with_trainer(
    args: Any, setting: Setting, rows: list[Encoded], folder: Path, model: Any = None, **more: Any
) -> tuple[list[float], list[float]]:
    """more: arguments of TrainingArguments in place of `peer_arguments`."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    examples = [{"input_ids": row.ids, "labels": row.labels} for row in rows]
    arguments = TrainingArguments(**peer_arguments(setting, folder) | more)
    collator = DataCollatorForSeq2Seq(toy_tokenizer())
    return train_peer(Trainer, arguments, examples, folder, model=model, data_collator=collator)


def with_trl(
    args: Any, setting: Setting, rows: list[Encoded], folder: Path, model: Any = None, **more: Any
) -> tuple[list[float], list[float]]:
    """more: arguments of SFTConfig in place of `peer_arguments`."""
    from trl import SFTConfig, SFTTrainer

    masks = [[int(label != IGNORED) for label in row.labels] for row in rows]
    examples = [{"input_ids": row.ids, "completion_mask": mask} for row, mask in zip(rows, masks, strict=True)]
    chosen = peer_arguments(setting, folder) | {"completion_only_loss": True, "max_length": 2048, "packing": False}
    return train_peer(
        SFTTrainer, SFTConfig(**chosen | more), examples, folder, model=model, processing_class=toy_tokenizer()
    )


def train_peer(
    trainer_class: Any,
    arguments: Any,
    examples: list[dict[str, Any]],
    folder: Path,
    *,
    model: Any = None,
    **options: Any,
) -> tuple[list[float], list[float]]:
    """Train `model`, by default the one in `folder`.  -> seconds and loss of each line of the log"""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback

    class Clock(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:  # not the summary at the end
                times.append(time.monotonic())

    if model is None:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    trainer = trainer_class(model, args=arguments, train_dataset=Dataset.from_list(examples), **options)
    trainer.add_callback(Clock())
    times = [time.monotonic()]
    trainer.train()
    return differences(times), [line["loss"] for line in trainer.state.log_history if "loss" in line]


def peer_arguments(setting: Setting, folder: Path) -> dict[str, Any]:
    """Arguments that Trainer and SFTTrainer have in common."""
    return {
        "output_dir": str(folder / "peer"),
        "per_device_train_batch_size": setting.batch_size,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": 1,
        "lr_scheduler_type": "linear",
        "warmup_steps": WARMUP_STEPS,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "sequential",  # the order of the examples, which are grouped by length
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": setting.precision == "bf16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def toy_tokenizer() -> Any:
    """A tokenizer for padding only: the examples are token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = models.WordLevel({"<unk>": 0, "<pad>": 1, "<eos>": 2}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), pad_token="<pad>", eos_token="<eos>")


TRAINERS = {"ours": ours, "trainer": with_trainer, "trl": with_trl}


def differences(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def flops_a_step(rows: Sequence[Encoded], config: Any) -> float:
    """Necessary operations: 6 per weight and token, and attention; head and last feed-forward layer at targets only.

    config: OlmoConfig.

    The last token of an example is predicted, never an input.
    """
    lengths = [len(row.ids) - 1 for row in rows]
    num_targets = sum(label != IGNORED for row in rows for label in row.labels)
    layers, width = config.num_hidden_layers, config.hidden_size
    mlp = 3 * width * config.intermediate_size
    body = layers * 4 * width**2 + (layers - 1) * mlp
    at_targets = config.vocab_size * width + mlp
    attention = sum(6 * layers * length**2 * width for length in lengths)
    return 6 * body * sum(lengths) + 6 * at_targets * num_targets + attention


def matmul_speed(dtype: str, num_threads: int) -> float:
    """FLOP/s of a large square matrix product, the best of several."""
    import torch

    torch.set_num_threads(num_threads)
    a, b = (torch.randn(2048, 2048, dtype=getattr(torch, dtype)) for _ in range(2))
    best = math.inf
    for _ in range(40):
        started = time.monotonic()
        a @ b
        best = min(best, time.monotonic() - started)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    run(main, Args)
