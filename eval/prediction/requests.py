"""Evaluation items as token ids; their generations, and the log-likelihoods of their continuations."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine.generation import Generated
from eval.engine.log_likelihood import Request, score
from eval.prediction.prediction_spec import GenerationSettings
from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import max_positions
from open_instruct.common.special_tokens import token_ids
from open_instruct.data.encode import (
    chat_prompt,
    encode_pairs,
    encode_prompts,
    eos_id,
    last_tokens,
    papers_chat_prompt,
)
from open_instruct.tasks import PROTOCOLS
from open_instruct.tasks.declarations import Protocol


@dataclass(frozen=True)
class EncodedItem:
    """Token ids of one evaluation item."""

    context: list[int]
    """The prompt, as it is tokenised jointly with the continuations."""
    continuations: list[list[int]]
    """Every label, or the gold completion alone, or the windows of a plain text."""
    gold: int
    """Index of the gold completion in `continuations`."""

    @property
    def num_continuation_tokens(self) -> int:
        return max(map(len, self.continuations))


Generate = Callable[..., list[Generated]]
"""`generation.generate` of a loaded model, or vLLM's: takes prompts and the same keyword arguments."""
WINDOW_TOKENS = 2048
"""Length of the windows of a plain text, for models that take any number of tokens."""


def max_length(model: PreTrainedModel) -> int:
    """Most tokens of prompt and continuation together; more than any text has where the model sets no limit."""
    return max_positions(model.config) or sys.maxsize


def prompts_and_completions(
    items: Sequence[Mapping[str, str]],
    exemplars: Sequence[Mapping[str, str]],
    protocol: Protocol = PROTOCOLS["corrected"],
    *,
    chat: bool,
    gold_in_prompt: bool = False,
) -> list[tuple[str, str]]:
    """(prompt, completion) of each item; the prompt begins with the exemplars.

    chat: the item is a user's turn, and so are the exemplars before it; in the paper's protocol they stand before the
    chat. gold_in_prompt: the chat goes on with the gold answer, after which the answer is predicted once more.
    """
    shots = "".join(f"{one['prompt']}{one['completion']}{protocol.after_exemplar}" for one in exemplars)
    prompts = [item["prompt"] for item in items]
    completions = [item["completion"] for item in items]
    if not chat:
        prompts = [shots + prompt for prompt in prompts]
    elif protocol.end_of_chat is None:
        prompts = [chat_prompt(shots + prompt) for prompt in prompts]
    else:
        shown = completions if gold_in_prompt else [None] * len(items)
        chats = zip(prompts, shown, strict=True)
        prompts = [shots + papers_chat_prompt(prompt, protocol.end_of_chat, answer) for prompt, answer in chats]
    # In a chat the assistant's turn begins on a new line: there is no space between, and EOS follows.
    if chat:
        strip = str.strip if protocol.end_of_chat is None else str.lstrip
        completions = [strip(one) for one in completions]
    return list(zip(prompts, completions, strict=True))


def encode_jointly(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[EncodedItem]:
    """Items whose gold completion is scored; prompt and completion are tokenised jointly."""
    return [EncodedItem(gold.prompt, [gold.completion], 0) for gold in encode_pairs(tokenizer, pairs)]


def encode_separately(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], continuations: Sequence[Sequence[int]] = ()
) -> list[EncodedItem]:
    """Items whose prompt ends with the space; prompt and gold completion are tokenised separately, as in the paper,
    where special tokens that a prompt spells out are real ones: its chats end in one.

    `continuations` are scored for every item; the gold completion follows them.
    Raises UserError for an empty completion.
    """
    prompts = encode_prompts(tokenizer, [prompt for prompt, _ in pairs], parses_special_tokens=True)
    completions = [completion for _, completion in pairs]
    golds = token_ids(tokenizer, completions)["input_ids"] if pairs else []
    empty = [completion for completion, ids in zip(completions, golds, strict=True) if not ids]
    if empty:
        raise UserError(f"found the completion {empty[0]!r}, which has no tokens; make the evaluation file again")
    shared = [list(ids) for ids in continuations]
    encoded = zip(prompts, golds, strict=True)
    return [EncodedItem(ids, [*shared, list(gold)], len(shared)) for ids, gold in encoded]


def count_too_long(
    lengths: Sequence[tuple[int, int]],
    *,
    max_length: int,
    max_new_tokens: int,
    num_first: int,
    truncate_left: bool,
    name: str,
) -> int:
    """Number of items whose prompt must be truncated so that the model takes prompt and continuation.

    lengths: (tokens of the context, tokens of the longest continuation) of each item; num_first: tokens that the
    tokenizer puts before every text, which stay.
    Raises UserError where there are any, unless `truncate_left`, and for continuations that are too long themselves.
    """
    available = [max_length - max(max_new_tokens, num_continuation) for _, num_continuation in lengths]
    if lengths and min(available) < max(num_first, 1):
        raise UserError(
            f"{name}: the longest continuation needs {max_length - min(available)} tokens, the model takes {max_length}"
        )
    num_long = sum(num_context > room for (num_context, _), room in zip(lengths, available, strict=True))
    if num_long and not truncate_left:
        longest = max(num_context for num_context, _ in lengths)
        raise UserError(
            f"{name}: {num_long} of {len(lengths)} prompts leave no room for the continuation (longest {longest} "
            f"tokens, the model takes {max_length} with the continuation); add --truncate_left to truncate them "
            "(in a study `predict: {truncate_left: true}`)"
        )
    return num_long


def truncate(item: EncodedItem, *, max_length: int, max_new_tokens: int, num_first: int) -> EncodedItem:
    """Drop the first tokens of the prompt, but for `num_first`, where it leaves no room for the continuation."""
    room = max_length - max(max_new_tokens, item.num_continuation_tokens)
    return dataclasses.replace(item, context=last_tokens(item.context, room, num_first))


def generate_texts(
    generate: Generate,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[EncodedItem],
    settings: GenerationSettings,
    *,
    first: int,
) -> list[dict[str, Any]]:
    """Per item "output" (generated text without surrounding white space) and "finished".

    `first` is the position of `items[0]` in the file: a sample depends on the item's position.
    """
    generated = generate(
        [item.context for item in items],
        max_new_tokens=settings.max_new_tokens,
        eos_id=eos_id(tokenizer),
        stop_ids=newline_ids(tokenizer) if settings.stop_at_newline else (),
        do_sample=settings.do_sample,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed + first,
    )
    texts = cast(list[str], tokenizer.batch_decode([each.ids for each in generated], skip_special_tokens=True))
    if settings.stop_at_newline:
        texts = [text.partition("\n")[0] for text in texts]
    return [{"output": text.strip(), "finished": each.finished} for text, each in zip(texts, generated, strict=True)]


def newline_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Every token whose text contains a line break."""
    decoded = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [token for token, text in enumerate(decoded) if "\n" in text]


def in_windows(item: EncodedItem, max_length: int) -> EncodedItem:
    """A plain text in windows without overlap, each as long as the model takes after the context: BOS or EOS."""
    size, (text,) = max_length - len(item.context), item.continuations
    windows = [text[start : start + size] for start in range(0, len(text), size)]
    return dataclasses.replace(item, continuations=windows)


def gold_log_likelihoods(model: PreTrainedModel, items: Sequence[EncodedItem]) -> list[dict[str, Any]]:
    """Per item "gold_logprob": log-likelihood of the gold completion, without EOS, in nats.

    Of a text in several windows it is their sum, and "num_windows" says how many there are.
    """
    found = []
    for scores in log_likelihoods(model, items):
        found.append({"gold_logprob": sum(scores)} | ({"num_windows": len(scores)} if len(scores) > 1 else {}))
    return found


def log_likelihoods(model: PreTrainedModel, items: Sequence[EncodedItem]) -> list[list[float]]:
    """Log-likelihood of every continuation of every item, in nats."""
    requests = [Request(item.context, item.continuations) for item in items]
    return [[each.sum_logits for each in scores] for scores in score(model, requests)]
