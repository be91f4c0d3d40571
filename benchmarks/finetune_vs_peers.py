"""Fine-tune the same model on the same examples with finetune.py, transformers' Trainer and TRL's SFTTrainer.

One process after the other: same weights, same examples in the same order and batches, same schedule and precision;
each trainer at its best settings (see `trl` and `trainer`). Prints examples per second, the ratio to either peer, the
largest difference of the loss curves, and the share of the machine's measured matrix multiplication speed.

Needs TRL (pip install trl==1.16.0).  Writes nothing but a temporary folder.

    python benchmarks/finetune_vs_peers.py --settings fp32-short
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from open_instruct.common.cli import run

Setting = Literal["fp32-short", "fp32-long", "bf16-short", "bf16-long"]
CONTENDERS = ("ours", "trainer", "trl")
VOCABULARY, WIDTH, LAYERS, INNER, HEADS = 50_304, 256, 4, 1024, 4
LEARNING_RATE, WARMUP_STEPS = 1e-4, 2
NUM_UNTIMED = 2
"""First steps, in which memory is allocated."""


@dataclass(frozen=True)
class Args:
    settings: tuple[Setting, ...] = ("fp32-short", "fp32-long", "bf16-short", "bf16-long")
    """Precision and length: short examples have about 60 tokens and come by 8, long ones about 1,000 and come by 4."""
    num_steps: int = 12
    repeats: int = 2
    """Times that each trainer runs, in turn; the fastest counts."""
    packing: bool = False
    """Ours: packed or padded, as the peers are; where lengths are alike, as here, padding costs little."""
    num_threads: int = os.cpu_count() or 1
    clock: Literal["wall", "processor"] = "wall"
    """`processor` counts the time that the process had on a core: for one thread on a machine that others use too."""
    worker: str | None = None
    """(used by the script itself) The trainer that this process runs."""
    folder: Path | None = None
    """(used by the script itself) Where the model and the examples lie."""


@dataclass(frozen=True)
class Shape:
    batch_size: int
    tokens: tuple[int, int]
    """Shortest and longest example."""
    targets: tuple[int, int]


SHAPES = {"short": Shape(8, (45, 75), (9, 17)), "long": Shape(4, (900, 1100), (90, 130))}


CLOCK: list[Callable[[], float]] = []


def now() -> float:
    return CLOCK[0]()


def main(args: Args) -> None:
    CLOCK.append(time.process_time if args.clock == "processor" else time.monotonic)
    if args.worker is not None:
        work(args)
        return
    peaks = {"fp32": gemm_peak("float32", args.num_threads), "bf16": gemm_peak("bfloat16", args.num_threads)}
    print(
        f"{args.num_threads} threads; measured matrix multiplication: "
        + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in peaks.items())
    )
    for setting in args.settings:
        with tempfile.TemporaryDirectory() as folder:
            compare(replace(args, folder=Path(folder)), setting, peaks[setting.split("-")[0]])


def compare(args: Args, setting: Setting, peak: float) -> None:
    precision, length = setting.split("-")
    shape = SHAPES[length]
    assert args.folder is not None
    examples = make_examples(shape, num_steps=args.num_steps)
    (args.folder / "examples.json").write_text(json.dumps(examples))
    (args.folder / "setting.json").write_text(json.dumps({"precision": precision, "batch_size": shape.batch_size}))
    make_model(args.folder / "model")
    seconds: dict[str, float] = dict.fromkeys(CONTENDERS, math.inf)
    losses: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for name in CONTENDERS:
            result = run_worker(args, name)
            seconds[name] = min(seconds[name], median(result["seconds"][NUM_UNTIMED:]))
            losses[name] = result["losses"]
    mean_length = sum(len(example["ids"]) for example in examples) / len(examples)
    print(f"\n{setting}: batches of {shape.batch_size}, {mean_length:.0f} tokens an example")
    flops = flops_a_step(examples[-shape.batch_size :])
    for name in CONTENDERS:
        difference = max(abs(a - b) / b for a, b in zip(losses["ours"], losses[name], strict=True))
        print(
            f"  {name:<8} {shape.batch_size / seconds[name]:7.2f} examples/s"
            f"   ours is {seconds[name] / seconds['ours']:5.2f} x as fast"
            f"   loss {losses[name][0]:.4f} -> {losses[name][-1]:.4f}, at most {difference:.2%} from ours"
        )
    print(f"  ours reaches {flops / seconds['ours'] / peak:.0%} of the matrix multiplication speed")


def make_examples(shape: Shape, *, num_steps: int) -> list[dict[str, list[int]]]:
    """Random tokens, of similar length within a batch: what Trainer's grouping by length would arrange."""
    rng = random.Random(0)
    lengths = sorted(rng.randint(*shape.tokens) for _ in range(num_steps * shape.batch_size))
    batches = [lengths[i : i + shape.batch_size] for i in range(0, len(lengths), shape.batch_size)]
    rng.shuffle(batches)
    examples = []
    for length in (length for batch in batches for length in batch):
        # Zipf-like, as text is: something can be learnt in a few steps.
        ids = [int(VOCABULARY ** rng.random()) - 1 for _ in range(length)]
        examples.append({"ids": ids, "num_targets": rng.randint(*shape.targets)})
    return examples


def make_model(folder: Path) -> None:
    import torch
    from transformers import OlmoConfig, OlmoForCausalLM

    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        pad_token_id=1,
        eos_token_id=2,
    )
    OlmoForCausalLM(config).save_pretrained(folder)


def run_worker(args: Args, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", name, "--folder", str(args.folder)]
    command += ["--clock", args.clock, "--num_threads", str(args.num_threads), "--num_steps", str(args.num_steps)]
    command += ["--packing"] if args.packing else []
    environment = os.environ | {"OMP_NUM_THREADS": str(args.num_threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads((args.folder / f"{name}.json").read_text())  # pyright: ignore[reportOptionalOperand]


def work(args: Args) -> None:
    assert args.folder is not None
    setting = json.loads((args.folder / "setting.json").read_text())
    examples = json.loads((args.folder / "examples.json").read_text())
    contender = {"ours": ours, "trainer": trainer, "trl": trl}[args.worker or ""]
    times, losses = contender(args, setting, examples)
    seconds = [after - before for before, after in pairwise(times)]
    (args.folder / f"{args.worker}.json").write_text(json.dumps({"seconds": seconds, "losses": losses}))


def ours(args: Args, setting: dict[str, Any], examples: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker, on_main_process

    from open_instruct.common.model_loading import load_model
    from open_instruct.training.arguments import Args as TrainingArgs
    from open_instruct.training.attention import attention_implementation
    from open_instruct.training.data import Examples, as_table
    from open_instruct.training.loop import Run, fit, prepare
    from open_instruct.training.loss import TargetLoss
    from open_instruct.training.state import State

    class Clock(GeneralTracker):
        name, requires_logging_directory, tracker = "clock", False, None

        def __init__(self) -> None:
            super().__init__()
            self.times = [now()]

        def store_init_configuration(self, values: dict) -> None:
            pass

        @on_main_process
        def log(self, values: dict, step: int | None = None, **_: Any) -> None:
            self.times.append(now())

    clock = Clock()
    folder = args.folder or Path()
    training = TrainingArgs(
        model_name_or_path=str(folder / "model"),
        train_file=folder / "examples.json",
        learning_rate=LEARNING_RATE,
        total_batch_size=setting["batch_size"],
        mixed_precision="bf16" if setting["precision"] == "bf16" else "no",
        packing=args.packing,
        checkpointing_steps="never",
        resume_from_checkpoint="no",
        warmup_ratio=WARMUP_STEPS / args.num_steps,
    )
    accelerator = Accelerator(mixed_precision=training.mixed_precision, log_with=clock)
    accelerator.init_trackers("benchmark")
    rows = [with_labels(example) for example in examples]
    steps = [list(range(i, i + setting["batch_size"])) for i in range(0, len(rows), setting["batch_size"])]
    attention = attention_implementation(packing=training.packing, half_precision=training.half_precision)
    model = load_model(folder / "model", attn_implementation=attention)
    module, optimizer, scheduler = prepare(training, accelerator, TargetLoss(model), num_steps=len(steps))
    state = State(folder / "ours", accelerator, arguments={}, inputs={})
    train = Examples(as_table(rows))
    fitted = fit(Run(training, accelerator, module, optimizer, scheduler, steps, train, None, state, lambda _: None))
    return clock.times, [line["loss"] for line in fitted.log]


def with_labels(example: dict[str, Any]):
    from open_instruct.data.encode import IGNORED, Encoded

    ids, num_targets = example["ids"], example["num_targets"]
    return Encoded(ids, [IGNORED] * (len(ids) - num_targets) + ids[-num_targets:])


def settings_of_both(args: Args, setting: dict[str, Any]) -> dict[str, Any]:
    """What Trainer and SFTTrainer are told alike."""
    return {
        "output_dir": str((args.folder or Path()) / "peer"),
        "per_device_train_batch_size": setting["batch_size"],
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": 1,
        "lr_scheduler_type": "linear",
        "warmup_steps": WARMUP_STEPS,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "sequential",  # the order that grouping by length gives, the same for all
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": setting["precision"] == "bf16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def clocked(trainer: Any) -> tuple[list[float], list[float]]:
    """Train; when each step ended, and its loss."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now())

    trainer.add_callback(Clock())
    trainer.train()
    return times, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def trainer(args: Args, setting: dict[str, Any], examples: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    import torch
    from datasets import Dataset
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    rows = [with_labels(example) for example in examples]
    dataset = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids = [torch.tensor(row["input_ids"]) for row in batch]
        padded = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=1),
            "labels": pad_sequence(
                [torch.tensor(row["labels"]) for row in batch], batch_first=True, padding_value=-100
            ),
        }
        padded["attention_mask"] = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        return padded

    model = AutoModelForCausalLM.from_pretrained((args.folder or Path()) / "model", dtype=torch.float32)
    arguments = TrainingArguments(**settings_of_both(args, setting))
    return clocked(Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate))


def trl(args: Args, setting: dict[str, Any], examples: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    vocabulary = {"<unk>": 0, "<pad>": 1, "<eos>": 2}
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    rows = [with_labels(example) for example in examples]
    masks = [[int(label != -100) for label in row.labels] for row in rows]
    dataset = Dataset.from_list(
        [{"input_ids": row.ids, "completion_mask": mask} for row, mask in zip(rows, masks, strict=True)]
    )
    model = AutoModelForCausalLM.from_pretrained((args.folder or Path()) / "model", dtype=torch.float32)
    arguments = SFTConfig(**settings_of_both(args, setting), completion_only_loss=True, max_length=2048, packing=False)
    return clocked(SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=words))


def flops_a_step(examples: list[dict[str, Any]]) -> float:
    """Of the products that are needed: 6 a weight and token, attention; head and last feed-forward at targets only.

    The last token of an example is predicted, never read.
    """
    at_targets = VOCABULARY * WIDTH + 3 * WIDTH * INNER
    body = LAYERS * 4 * WIDTH**2 + (LAYERS - 1) * 3 * WIDTH * INNER
    lengths = [len(example["ids"]) - 1 for example in examples]
    attention = sum(6 * LAYERS * length**2 * WIDTH for length in lengths)
    return 6 * body * sum(lengths) + 6 * at_targets * sum(e["num_targets"] for e in examples) + attention


def gemm_peak(dtype: str, num_threads: int) -> float:
    """FLOP/s of a large square product, the best of several."""
    import torch

    torch.set_num_threads(num_threads)
    a, b = (torch.randn(2048, 2048, dtype=getattr(torch, dtype)) for _ in range(2))
    best = math.inf
    for _ in range(40):
        started = now()
        a @ b
        best = min(best, now() - started)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    run(main, Args)
