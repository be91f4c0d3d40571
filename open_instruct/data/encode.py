"""Text to token ids, in one place: training, prediction and evaluation all encode here.

The prompt never ends in white space: the space belongs to the completion, which is tokenised together with its prompt
and split off by character offsets. No BOS is added; a text without context is conditioned on EOS, which in OLMo's
pre-training stands between documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from open_instruct.common.errors import UserError

IGNORED = -100
"""Label of a position that is no target (the value torch's cross-entropy skips)."""


CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'].strip() }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
"""The layout of `encode_messages`, for tokenizers' `apply_chat_template`."""


@dataclass(frozen=True)
class Encoded:
    """One training example: `labels[i]` is `ids[i]` where that token is a target, else IGNORED."""

    ids: Sequence[int] | NDArray
    labels: Sequence[int] | NDArray

    @property
    def num_targets(self) -> int:
        """Nothing comes before the first token that could predict it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Pair:
    """A tokenised prompt and its completion, EOS not included."""

    prompt: list[int]
    completion: list[int]


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, exactly as they stand in training; an empty prompt is [EOS]."""
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return [list(ids) or [eos_id(tokenizer)] for ids in encoded]


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Prompt and completion tokenised jointly and split where the completion's first character lies.

    Raises UserError for a completion without tokens, and for a token that spans both sides of the border.
    """
    if not pairs:
        return []
    texts = [prompt + completion for prompt, completion in pairs]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    result = []
    for (prompt, completion), ids, offsets in zip(pairs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        border = sum(end <= len(prompt) for _, end in offsets)
        if border == len(ids):
            raise UserError(f"empty completion after the prompt {prompt[-60:]!r}; a completion must have text")
        if offsets[border][0] < len(prompt):
            token = tokenizer.convert_ids_to_tokens(ids[border])
            raise UserError(
                f"token {token!r} spans prompt and completion ({prompt[-20:]!r} + {completion[:20]!r}); "
                "end the prompt without white space and begin the completion with a space"
            )
        result.append(Pair(ids[:border] or [eos_id(tokenizer)], ids[border:]))
    return result


def encode_examples(
    tokenizer: PreTrainedTokenizerFast, records: Iterable[Mapping[str, Any]], *, max_length: int
) -> tuple[list[Encoded], int]:
    """Training examples from records with prompt/completion or messages.

    Returns the examples and how many lost prompt tokens to fit `max_length`; targets are never cut.
    Raises UserError where the targets alone do not fit, or an example has none.
    """
    records = list(records)
    pairs = encode_pairs(tokenizer, [(r["prompt"], r["completion"]) for r in records if "messages" not in r])
    plain = iter(pairs)
    examples, num_cut = [], 0
    for record in records:
        if "messages" in record:
            example = encode_messages(tokenizer, record["messages"])
        else:
            pair = next(plain)
            targets = [*pair.completion, eos_id(tokenizer)]
            example = Encoded([*pair.prompt, *targets], [IGNORED] * len(pair.prompt) + targets)
        if len(example.ids) > max_length:
            num_cut += 1
            example = cut_left(example, max_length=max_length, name=str(record["id"]))
        if example.num_targets == 0:
            raise UserError(f"{record['id']}: no target token within max_seq_length {max_length}; raise it")
        examples.append(example)
    return examples, num_cut


def cut_left(example: Encoded, *, max_length: int, name: str) -> Encoded:
    """Drop the oldest tokens until it fits; an answer that would lose its beginning goes as a whole.

    Raises UserError where the last answer alone does not fit.
    """
    cut, labels = len(example.ids) - max_length, example.labels
    # One token must stay before an answer: its first token is predicted from that.
    while cut < len(labels) and labels[cut] != IGNORED:
        cut += 1
    if all(label == IGNORED for label in labels[cut:]):
        raise UserError(
            f"{name}: its completion alone exceeds max_seq_length {max_length}, less one token to predict it from; "
            "raise --max_seq_length"
        )
    return Encoded(example.ids[cut:], labels[cut:])


def encode_messages(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Mapping[str, str]]) -> Encoded:
    """A chat, tokenised as one text: loss on what the assistant says and on the EOS that ends its turn."""
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
    """One user turn up to where the assistant begins, as the encoder lays it out in training."""
    return f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"


def eos_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Raises UserError where the tokenizer names no EOS."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise UserError(f"the tokenizer {tokenizer.name_or_path} names no EOS token; set eos_token in its config")
    return tokenizer.eos_token_id
