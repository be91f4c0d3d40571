"""Settings of the stages: each class is the base of a stage's command line and of a section of a study file.

A setting that affects a result declares its part of the output's name (common/naming.py). No part of a model's name is
one of an evaluation's, for the one follows the other.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, cast

from open_instruct.common.naming import named, suffix
from open_instruct.common.special_tokens import AddBosToken
from open_instruct.tasks.declarations import Protocol

DEFAULT_SEED = 42
DEFAULT_MAX_NEW_TOKENS = 60
OF_ADAPTERS, SAMPLING = ("lora_rank", "lora_alpha", "lora_dropout"), ("temperature", "top_p", "seed")
"""Settings without effect where there is no adapter, and where nothing is sampled."""
Constraint = Literal["none", "next_word", "constraint", "label"]
"""How a label is predicted (eval/prediction/label_scoring.py)."""
Dtype = Literal["float32", "bfloat16", "float16"]
"""Precision of a model's weights."""
DEFAULT_CONSTRAINTS: dict[str, Constraint] = {"whole_label": "label", "sub_tokens": "next_word"}
"""`Protocol.label_scores` -> how a label is predicted under that protocol."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings of fine-tuning that affect the weights, beside those that make a grid."""

    max_train_steps: int | None = named(None, "steps{}")
    """Number of optimiser steps; overrides the number of epochs (the schedule ends there too)."""
    max_seq_length: int = named(2048, "len{}")
    """Longest example in tokens; a longer one loses the beginning of its prompt, never its completion."""
    lr_scheduler_type: Literal["linear", "cosine", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"] = (
        named("linear", "{}")
    )
    """Course of the learning rate after warm-up."""
    warmup_ratio: float = named(0.03, "warmup{}")
    """Share of the steps in which the learning rate rises from 0; a warm-up of a single step is left out."""
    weight_decay: float = named(0.0, "decay{}")
    """Of matrices; biases and norms have none."""
    max_grad_norm: float = named(1.0, "clip{}")
    """Gradients of a larger norm are scaled down to it; 0: none are."""
    lora_rank: int = named(64, "rank{}")
    """Rank of the adapters."""
    lora_alpha: float = named(16.0, "alpha{}")
    """Their products are scaled by alpha / rank."""
    lora_dropout: float = named(0.1, "dropout{}")
    """Dropout on their input."""
    early_stopping_patience: int | None = named(None, "patience{}")
    """Stop after this many epochs without a lower validation loss, and keep the weights with the lowest."""
    num_validation_rows: int = named(0, "val{}")
    """Hold back this many rows from the end of the train file, and log their loss before training and each epoch."""
    add_bos_token: AddBosToken | None = named(None, "bos{}")
    """Whether each example begins with BOS (default: as the tokenizer does); the saved tokenizer does the same."""

    def relevant(self, *, is_lora: bool) -> "TrainingOptions":
        """Only these settings, those of an adapter at their defaults where there is none."""
        return part_of(self, TrainingOptions, reset=() if is_lora else OF_ADAPTERS)


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Settings of fine-tuning that affect memory, speed and logs, and no weights."""

    per_device_train_batch_size: int | None = None
    """Most examples in one forward pass of a process (default: limited by max_tokens_per_batch)."""
    max_tokens_per_batch: int = 16_384
    """Most tokens, including padding, in one forward pass of a process."""
    packing: bool = False
    """Concatenate examples instead of padding them; each attends to itself only."""
    preprocessing_num_workers: int = 1
    """Processes that tokenise."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them: less memory, a third more computation."""
    torch_compile: bool = False
    """Compile the model's layers: a minute at the start, for faster steps on a GPU. Needs a C++ compiler."""
    checkpointing_steps: str = "epoch"
    """When to save a state to resume from: `epoch`, a number of steps, or `never`. Signals save one in any case."""
    logging_steps: int = 1
    """Number of steps in one line of the log; its loss is their mean."""
    check_memory: bool = True
    """Refuse to start where the memory estimate exceeds the free memory."""
    timeout_seconds: int = 3600
    """Longest time that one process waits for the others, e.g. while the first one tokenises."""


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Settings of a prediction, beside the number of exemplars and of items."""

    max_new_tokens: int = named(DEFAULT_MAX_NEW_TOKENS, "new{}")
    """Maximum length of a generation, in tokens; at its default that of the evaluation set, where it declares one."""
    stop_at_newline: bool = named(False, "line")
    """End a generation at its first line break."""
    do_sample: bool = named(False, "sampled")
    """Sample instead of greedy decoding."""
    temperature: float = named(1.0, "temperature{}")
    """Sampling temperature."""
    top_p: float = named(1.0, "top{}")
    """Sample from the fewest most likely tokens whose probabilities add up to this."""
    seed: int = named(42, "seed{}")
    """Sampling seed."""
    use_vllm: bool = named(False, "vllm")
    """Generate with vLLM, on a GPU; log-likelihoods are computed by transformers in any case."""
    use_chat_format: bool = named(False, "chat")
    """Format each item as a user's turn, for models that were fine-tuned on chats; plain text stays as it is."""
    dtype: Dtype = named("float32", "{}")
    """Precision of the weights: float32 to compare models, the others for speed on a GPU."""
    truncate_left: bool = named(False, "truncated")
    """Truncate prompts that are too long for the model on the left, and count them (default: refuse them)."""
    constraint_type: Constraint | None = named(None, "{}")
    """How a label is predicted: by the log-likelihood of the whole label (label), by its most likely sub-token
    (next_word), by greedy decoding constrained to labels (constraint), or by free generation (none)
    (default: label; next_word in the paper's protocol)."""
    add_bos_token: AddBosToken | None = named(None, "promptbos{}")
    """Whether each prompt begins with BOS (default: as the model's tokenizer does)."""

    def constraint(self, protocol: Protocol) -> Constraint:
        return self.constraint_type or DEFAULT_CONSTRAINTS[protocol.label_scores]

    def generates(self, kind: str, protocol: Protocol) -> bool:
        return kind == "generation" or (kind == "labels" and self.constraint(protocol) == "none")

    def relevant(self, eval_set: str, kind: str, protocol: Protocol) -> "PredictionOptions":
        """Only these settings, those without effect on an evaluation set of this kind at their defaults."""
        without_effect = [] if self.do_sample else [*SAMPLING]
        if not self.generates(kind, protocol):
            without_effect += ["max_new_tokens", "stop_at_newline", "do_sample", *SAMPLING, "use_vllm"]
        if kind == "text" or eval_set in protocol.gold_in_prompt:  # the one is never a chat, the other always
            without_effect.append("use_chat_format")
        if kind != "labels" or self.constraint(protocol) == DEFAULT_CONSTRAINTS[protocol.label_scores]:
            without_effect.append("constraint_type")
        return part_of(self, PredictionOptions, reset=without_effect)


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """Settings of ranked classification, beside the number of exemplars."""

    use_chat_format: bool = named(False, "chat")
    """Format each instance as a user turn, for models that were fine-tuned on chats."""
    limit: int | None = named(None, "limit{}")
    """Evaluate a random sample of this many rows (default: all)."""
    random_subsample_seed: int = named(1234, "sample{}")
    """Seed of that sample."""
    split: str = named("validation", "{}")
    """Split that is evaluated."""
    fewshot_seed: int | None = named(None, "exemplars{}")
    """Seed of exemplars that are the same for every instance (default: drawn by the instance's position)."""
    max_seq_length: int | None = named(None, "maxlen{}", aliases=("model_max_length",))
    """Longest input in tokens (default: the minimum of the tokenizer's, the model's, and 2048)."""
    dtype: Dtype = named("float32", "{}")
    """Precision of the weights: float32 to compare models, the others for speed on a GPU."""
    add_bos_token: AddBosToken | None = named(None, "promptbos{}")
    """Whether each context begins with BOS (default: as the model's tokenizer does)."""


def recorded(options: Any) -> dict[str, Any]:
    """The options as arguments of a sidecar: those of before --add_bos_token are the same as those without it."""
    values = asdict(options)
    return {name: value for name, value in values.items() if (name, value) != ("add_bos_token", None)}


def evaluation_suffix(options: PredictionOptions | SuiteOptions, *, num_shots: int, limit: int | None = None) -> str:
    """Part of the name of predictions or suite results: `_4shots_limit100_new40`.

    options: the relevant ones; limit: of predictions, for a suite has it among its options.
    """
    shots = f"_{num_shots}shots" if num_shots else ""
    return shots + (f"_limit{limit}" if limit else "") + suffix(options)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Settings of the intervals."""

    num_resamples: int = named(3_000, "resamples{}")
    """Bootstrap resamples for each interval."""
    seed: int = named(0, "bootstrapseed{}")
    """Seed of the resamples."""
    method: Literal["percentile", "bca"] = named("percentile", "{}")
    """Interval: percentile, or bca (corrected for bias and skewness; macro F1 stays percentile)."""


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """Settings of the embedded model; 2,048 tokens a step."""

    d_model: int = named(128, "d{}")
    """Width of the hidden states."""
    num_layers: int = named(2, "layers{}")
    """Number of transformer blocks."""
    num_heads: int = named(4, "heads{}")
    """Number of attention heads of a block."""
    vocab_size: int = named(4_096, "vocab{}")
    """Tokens of its tokenizer, a byte-level BPE that is trained on the corpus."""
    learning_rate: float = named(3e-3, "lr{}", aliases=("lr",))
    """Peak learning rate: linear warm-up, then constant, so that no checkpoint benefits from a decay phase."""
    warmup_steps: int = named(20, "warmup{}")
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = named(0.1, "decay{}")
    """Weight decay of AdamW."""
    seed: int = named(DEFAULT_SEED, "seed{}")
    """Of the initial weights and of the order of the text: a run is both anew."""

    @property
    def run(self) -> str | None:
        """The pre-training run's name: what differs from the defaults, None where nothing does."""
        return suffix(part_of(self, PretrainingOptions)).lstrip("_").replace("_", "-") or None


Options = TypeVar("Options")


def part_of(options: Any, base: type[Options], *, reset: Collection[str] = ()) -> Options:
    """Only the fields that `base` declares, those named in `reset` at their defaults."""
    names = [field.name for field in fields(cast(Any, base)) if field.name not in reset]
    return base(**{name: getattr(options, name) for name in names})


def changed(options: Any, base: type) -> dict[str, Any]:
    """The values of the fields of `base` that differ from their defaults."""
    return {f.name: getattr(options, f.name) for f in fields(base) if getattr(options, f.name) != f.default}
