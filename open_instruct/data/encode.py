"""Encode text as token ids. Training, prediction and evaluation all use this module.

The prompt never ends in white space: the space belongs to the completion. Prompt and completion are tokenised jointly
and split by character offsets. No BOS is added; text without a prompt is conditioned on EOS, which separates documents
in OLMo's pre-training.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from open_instruct.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""Label of a position that is not a target: `ignore_index` of torch's cross-entropy."""
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'].strip() }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
"""The layout of `encode_messages` as a template of `apply_chat_template`."""


@dataclass(frozen=True)
class Encoded:
    """One training example: `labels[i]` is `ids[i]` where that token is a target, else IGNORED."""

    ids: Sequence[int] | NDArray
    labels: Sequence[int] | NDArray

    @property
    def num_targets(self) -> int:
        # The first token is never a target: no token before it predicts it.
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and its completion, without EOS."""

    prompt: list[int]
    completion: list[int]


def encode_prompts(tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, exactly as in training; an empty prompt is [EOS]."""
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [list(ids) or [eos_id(tokenizer)] for ids in encoded]


def encode_pairs(tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Tokenise prompt and completion jointly, and split at the first token of the completion.

    Raises UserError for a completion without tokens, and for a token that spans prompt and completion.
    """
    if not pairs:
        return []
    texts = [prompt + completion for prompt, completion in pairs]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    result = []
    for (prompt, completion), ids, offsets in zip(pairs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        boundary = sum(end <= len(prompt) for _, end in offsets)
        if boundary == len(ids):
            raise UserError(f"empty completion after the prompt {prompt[-60:]!r}; a completion must have text")
        # White space at a prompt's end, as in the paper's prompts, merges into the completion's first token.
        if prompt[offsets[boundary][0] :].strip():
            token = tokenizer.convert_ids_to_tokens(ids[boundary])
            raise UserError(
                f"token {token!r} spans prompt and completion ({prompt[-20:]!r} + {completion[:20]!r}); "
                "end the prompt without white space and begin the completion with a space"
            )
        result.append(Pair(ids[:boundary] or [eos_id(tokenizer)], ids[boundary:]))
    return result


def encode_examples(
    tokenizer: "PreTrainedTokenizerFast", records: Iterable[Mapping[str, Any]], *, max_length: int
) -> tuple[list[Encoded], int]:
    """Training examples of records with prompt and completion, or messages.

    Returns the examples and how many were truncated to `max_length`; no completion is truncated in part.
    Raises UserError where the targets alone do not fit, or an example has none.
    """
    records = list(records)
    pairs = encode_pairs(tokenizer, [(r["prompt"], r["completion"]) for r in records if "messages" not in r])
    plain = iter(pairs)
    examples, num_truncated = [], 0
    for record in records:
        if "messages" in record:
            example = encode_messages(tokenizer, record["messages"])
        else:
            pair = next(plain)
            targets = [*pair.completion, eos_id(tokenizer)]
            example = Encoded([*pair.prompt, *targets], [IGNORED] * len(pair.prompt) + targets)
        if len(example.ids) > max_length:
            num_truncated += 1
            example = truncate_left(example, max_length=max_length, name=str(record["id"]))
        if example.num_targets == 0:
            raise UserError(f"{record['id']}: no target token within max_seq_length {max_length}; raise it")
        examples.append(example)
    return examples, num_truncated


def truncate_left(example: Encoded, *, max_length: int, name: str) -> Encoded:
    """Drop the first tokens until the rest fits; a completion that would lose its beginning is dropped completely.

    Raises UserError where the last completion alone does not fit.
    """
    start, labels = len(example.ids) - max_length, example.labels
    # A token before the completion must remain: the completion's first token is predicted from it.
    while start < len(labels) and labels[start] != IGNORED:
        start += 1
    if all(label == IGNORED for label in labels[start:]):
        raise UserError(
            f"{name}: its completion alone exceeds max_seq_length {max_length}, less one token to predict it from; "
            "raise --max_seq_length"
        )
    return Encoded(example.ids[start:], labels[start:])


def encode_messages(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Mapping[str, str]]) -> Encoded:
    """A chat, tokenised as one text. Targets are the assistant's turns, each with its EOS."""
    text, spans = "", []
    for message in messages:
        if message["role"] == "assistant":
            text += "<|assistant|>\n"
            answer = f"{message['content'].strip()}{tokenizer.eos_token}"
            spans.append((len(text), len(text) + len(answer)))
            text += f"{answer}\n"
        else:
            text += f"<|{message['role']}|>\n{message['content'].strip()}\n"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    is_target = [any(a <= start and end <= b for a, b in spans) for start, end in encoded["offset_mapping"]]
    return Encoded(ids, [token if target else IGNORED for token, target in zip(ids, is_target, strict=True)])


def chat_prompt(prompt: str) -> str:
    """One user turn and the beginning of the assistant's turn, as `encode_messages` lays them out in training."""
    return f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"


def papers_chat_prompt(prompt: str, end: str, answer: str | None = None) -> str:
    """The same as in the paper's prediction, where a hard-coded token begins a chat and ends an answer.

    answer: one that is shown before the turn that is predicted.
    """
    shown = "" if answer is None else f"<|assistant|>\n{answer.strip()}{end}\n"
    return f"{end}<|user|>\n{prompt}\n{shown}<|assistant|>\n"


def eos_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Raises UserError where the tokenizer has no EOS."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no EOS token; set eos_token in its config")
    return tokenizer.eos_token_id
