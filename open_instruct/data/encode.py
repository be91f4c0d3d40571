"""Encode text as token ids. Training, prediction and evaluation all use this module.

The prompt never ends in white space: the space belongs to the completion. Prompt and completion are tokenised jointly
and split by character offsets. What the tokenizer puts before a text by default, such as BOS, stands once at the
beginning of every example and context, and is never a target. Where it puts nothing, text without a prompt is
conditioned on EOS, which separates documents in OLMo's pre-training. Special tokens spelled out in data stay text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from numpy.typing import NDArray

from open_instruct.common.errors import UserError
from open_instruct.common.special_tokens import beginning, begins_with, token_ids

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
"""The layout of `encode_messages` as a template of `apply_chat_template`, without what begins it."""
EXAMPLE_CHAT = [
    {"role": "user", "content": "Is A b?"},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "C d"},
    {"role": "assistant", "content": "e 1"},
]


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


def encode_prompts(
    tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], *, parses_special_tokens: bool = False
) -> list[list[int]]:
    """Token ids of prompts, after what begins every text; an empty prompt is [BOS], or [EOS] where nothing begins it.

    parses_special_tokens: those that a prompt spells out are real ones, as in the paper's code.
    """
    if not prompts:
        return []
    if parses_special_tokens:
        encoded = tokenizer(list(prompts), add_special_tokens=False, split_special_tokens=False)
    else:
        encoded = token_ids(tokenizer, prompts)
    first = beginning(tokenizer)
    return [as_context(tokenizer, first, ids) for ids in encoded["input_ids"]]


def as_context(tokenizer: "PreTrainedTokenizerFast", first: Sequence[int], ids: Sequence[int]) -> list[int]:
    """`ids` after `first`, which begins every text, or [EOS] where both are empty."""
    return list(ids if first and ids[: len(first)] == first else [*first, *ids]) or [eos_id(tokenizer)]


def encode_pairs(tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Tokenise prompt and completion jointly, and split at the first token of the completion.

    Raises UserError for a completion without tokens, and for a token that spans prompt and completion.
    """
    first, result = beginning(tokenizer), []
    for (prompt, _), (before, after) in zip(pairs, split_pairs(tokenizer, pairs), strict=True):
        if not after:
            raise UserError(f"empty completion after the prompt {prompt[-60:]!r}; a completion must have text")
        result.append(Pair(as_context(tokenizer, first, before), after))
    return result


def split_pairs(
    tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """The token ids of prompt and completion, tokenised as one text; nothing stands before it."""
    if not pairs:
        return []
    texts = [prompt + completion for prompt, completion in pairs]
    encoded = token_ids(tokenizer, texts, return_offsets_mapping=True)
    result = []
    for (prompt, completion), ids, offsets in zip(pairs, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if are_one_character(prompt[-1:], completion[:1]):
            raise UserError(
                f"the completion {completion[:20]!r} begins with a mark on the last letter of the prompt "
                f"{prompt[-20:]!r}; begin it with a letter or a space"
            )
        # A space that the tokenizer puts before a text ends at 0, and belongs to its first token.
        boundary = sum(end <= len(prompt) for _, end in offsets) if prompt else 0
        # White space at a prompt's end, as in the paper's prompts, merges into the completion's first token.
        if boundary < len(ids) and prompt[offsets[boundary][0] :].strip():
            token = tokenizer.convert_ids_to_tokens(ids[boundary])
            raise UserError(
                f"token {token!r} spans prompt and completion ({prompt[-20:]!r} + {completion[:20]!r}); "
                "end the prompt without white space and begin the completion with a space"
            )
        result.append((ids[:boundary], ids[boundary:]))
    return result


def are_one_character(letter: str, mark: str) -> bool:
    """Whether tokenizers that normalise make one character of both, with the offsets of the first."""
    return normalize("NFC", letter + mark) != normalize("NFC", letter) + normalize("NFC", mark)


def encode_examples(
    tokenizer: "PreTrainedTokenizerFast", records: Iterable[Mapping[str, Any]], *, max_length: int
) -> tuple[list[Encoded], int]:
    """Training examples of records with prompt and completion, or messages.

    Returns the examples and how many were truncated to `max_length`; no completion is truncated in part.
    Raises UserError where the targets alone do not fit, or an example has none.
    """
    records = list(records)
    pairs = encode_pairs(tokenizer, [(r["prompt"], r["completion"]) for r in records if "messages" not in r])
    chats = encode_chats(tokenizer, [r["messages"] for r in records if "messages" in r])
    plain, of_messages, num_first = iter(pairs), iter(chats), len(beginning(tokenizer))
    examples, num_truncated = [], 0
    for record in records:
        if "messages" in record:
            example = next(of_messages)
        else:
            pair = next(plain)
            targets = [*pair.completion, eos_id(tokenizer)]
            example = Encoded([*pair.prompt, *targets], [IGNORED] * len(pair.prompt) + targets)
        if len(example.ids) > max_length:
            num_truncated += 1
            example = truncate_left(example, max_length=max_length, num_first=num_first, name=str(record["id"]))
        if example.num_targets == 0:
            raise UserError(f"{record['id']}: no target token within max_seq_length {max_length}; raise it")
        examples.append(example)
    return examples, num_truncated


def truncate_left(example: Encoded, *, max_length: int, num_first: int, name: str) -> Encoded:
    """Drop tokens after the first `num_first` until the rest fits; a completion that would lose its beginning is
    dropped completely.

    Raises UserError where the last completion alone does not fit.
    """
    ids, labels = list(example.ids), list(example.labels)
    start = len(ids) - max(max_length - num_first, 0)

    # A token before the completion must remain: the completion's first token is predicted from it.
    def is_without_context(start: int) -> bool:
        return labels[start] != IGNORED and not (num_first and labels[start - 1] == IGNORED)

    while start < len(labels) and is_without_context(start):
        start += 1
    if all(label == IGNORED for label in labels[start:]):
        raise UserError(
            f"{name}: its completion alone exceeds max_seq_length {max_length}, less {num_first or 'one'} "
            f"{'tokens' if num_first > 1 else 'token'} to predict it from; raise --max_seq_length"
        )
    return Encoded(ids[:num_first] + ids[start:], labels[:num_first] + labels[start:])


def last_tokens(ids: list[int], room: int, num_first: int) -> list[int]:
    """The first `num_first` and the last of `ids`, `room` of them at most: a context that is truncated."""
    return ids if len(ids) <= room else ids[:num_first] + ids[len(ids) - room + num_first :]


def encode_messages(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[Mapping[str, str]]) -> Encoded:
    """A chat. Targets are the assistant's turns, each with its EOS.  Raises UserError as `require_chats`."""
    return encode_chats(tokenizer, [messages])[0]


def encode_chats(
    tokenizer: "PreTrainedTokenizerFast", chats: Sequence[Sequence[Mapping[str, str]]], *, checked: bool = True
) -> list[Encoded]:
    """`encode_messages` of each chat.  checked: whether the layout is compared with `apply_chat_template` first."""
    if not chats:
        return []
    if checked:
        require_chats(tokenizer)
    of_chats = [stretches(messages) for messages in chats]
    split = iter(split_pairs(tokenizer, [pair for of_chat in of_chats for pair in of_chat]))
    first, eos, examples = beginning(tokenizer), eos_id(tokenizer), []
    for of_chat in of_chats:
        ids, labels = list(first), [IGNORED] * len(first)
        for number in range(len(of_chat)):
            prompt, answer = next(split)
            targets = [*answer, eos] if number < len(of_chat) - 1 else []
            ids += [*prompt, *targets]
            labels += [IGNORED] * len(prompt) + targets
        examples.append(Encoded(ids, labels))
    return examples


def stretches(messages: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """(text up to an answer of the assistant, the answer) for each; at last the text after all, and no answer."""
    found, text = [], ""
    for message in messages:
        content = message["content"].strip()
        text += f"<|{message['role']}|>\n"
        if message["role"] == "assistant":
            found.append((text, content))
            text = "\n"
        else:
            text += f"{content}\n"
    return [*found, (text, "")]


def chat_template(tokenizer: "PreTrainedTokenizerFast") -> str | None:
    """The template whose `apply_chat_template` has the ids of `encode_messages`, None where there is none."""
    if tokenizer.eos_token_id is None:
        return None
    [expected] = encode_chats(tokenizer, [EXAMPLE_CHAT], checked=False)
    first = "".join(f"{{{{- {token!r} }}}}" for token in begins_with(tokenizer))
    # Some tokenizers put a space before a text, but not after a special token.
    for space in ("", " "):
        template = CHAT_TEMPLATE
        if first:
            template = first + (f"{{{{- {space!r} }}}}" if space else "") + template
        if space:
            template = template.replace("{{ eos_token }}", "{{ eos_token + ' ' }}")
        if tokenizer.apply_chat_template(EXAMPLE_CHAT, chat_template=template, return_dict=False) == expected.ids:
            return template
    return None


def require_chats(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Raises UserError where a chat has other ids than any template gives, as where <|user|> is a special token."""
    if chat_template(tokenizer) is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} does not take all of a chat's layout as text: a mark such as "
            "<|user|> is a special token, or white space around EOS is lost; use prompt and completion in place of "
            "messages, and no --use_chat_format"
        )


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
