"""Evaluation items as token ids, and what a model answers to them: text that it writes, the likelihood of the gold
completion. Labels are in choosing.py.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine.generation import Generated
from eval.engine.scoring import Request, score
from open_instruct.common.errors import UserError
from open_instruct.data.encode import (
    chat_prompt,
    encode_pairs,
    encode_prompts,
    eos_id,
)


@dataclass(frozen=True)
class Question:
    """One item as token ids."""

    prompt: list[int]
    """What the model writes after."""
    context: list[int]
    """What the continuations are scored after: the prompt as it is tokenised together with them."""
    continuations: list[list[int]]
    """Every label, or the gold completion alone."""
    gold: int
    """Index of the gold completion in `continuations`."""


@dataclass(frozen=True)
class Writing:
    """How text is generated."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_p: float
    seed: int
    stop_at_newline: bool


Write = Callable[..., list[Generated]]
"""Prompts, and the keywords of `generation.generate`, to what was written: that function of a model, or vLLM's."""


def texts(
    records: Sequence[Mapping[str, str]], exemplars: Sequence[Mapping[str, str]], *, chat: bool
) -> list[tuple[str, str]]:
    """(prompt, completion) of each item, after its exemplars, each of which a blank line ends."""
    shots = "".join(f"{exemplar['prompt']}{exemplar['completion']}\n\n" for exemplar in exemplars)
    pairs = [(shots + record["prompt"], record["completion"]) for record in records]
    # In a chat the assistant's turn begins on a line of its own: there is no space between.
    return [(chat_prompt(prompt), completion.lstrip()) for prompt, completion in pairs] if chat else pairs


def encode_golds(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Question]:
    """Items whose gold completion is scored."""
    prompts = encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    golds = encode_pairs(tokenizer, pairs)
    return [Question(ids, gold.prompt, [gold.completion], 0) for ids, gold in zip(prompts, golds, strict=True)]


def encode_apart(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], alternatives: Sequence[Sequence[int]] = ()
) -> list[Question]:
    """Items whose prompt ends with the space: prompt and gold completion are tokenised apart, as the paper did.

    Each item is also asked for `alternatives`, the same for all; its gold completion comes last.
    Raises UserError for an empty completion.
    """
    prompts = encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    completions = [completion for _, completion in pairs]
    golds = tokenizer(completions, add_special_tokens=False)["input_ids"] if pairs else []
    empty = [completion for completion, ids in zip(completions, golds, strict=True) if not ids]
    if empty:
        raise UserError(f"found the completion {empty[0]!r}, which has no tokens; make the evaluation file again")
    alternatives = [list(ids) for ids in alternatives]
    asked = zip(prompts, golds, strict=True)
    return [Question(ids, ids, [*alternatives, list(gold)], len(alternatives)) for ids, gold in asked]


def size(question: Question) -> tuple[int, int]:
    """Tokens of the longer of prompt and context, and of the longest continuation."""
    return max(len(question.prompt), len(question.context)), max(map(len, question.continuations))


def check_fit(
    sizes: Sequence[tuple[int, int]], *, max_length: int, max_new_tokens: int, cut_left: bool, name: str
) -> int:
    """How many of the questions of these sizes must lose their oldest tokens to leave room for the answer.

    Raises UserError where there are any, unless `cut_left`, and for answers that are too long by themselves.
    """
    rooms = [max_length - max(max_new_tokens, answer) for _, answer in sizes]
    if sizes and min(rooms) < 1:
        raise UserError(
            f"{name}: the longest answer needs {max_length - min(rooms)} tokens, the model takes {max_length}"
        )
    num_long = sum(length > room for (length, _), room in zip(sizes, rooms, strict=True))
    if num_long and not cut_left:
        longest = max(length for length, _ in sizes)
        raise UserError(
            f"{name}: {num_long} of {len(sizes)} prompts leave no room for the answer (longest {longest} "
            f"tokens, the model takes {max_length} with the answer); add --truncate_left to cut them on the left"
        )
    return num_long


def cut(question: Question, *, max_length: int, max_new_tokens: int) -> Question:
    """The question, without its oldest tokens where there would be no room for the answer."""
    room = max_length - max(max_new_tokens, size(question)[1])
    return dataclasses.replace(question, prompt=question.prompt[-room:], context=question.context[-room:])


def write_texts(
    write: Write,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    writing: Writing,
    *,
    first: int,
) -> list[dict[str, Any]]:
    """Per item "output" (generated text without white space around it) and "finished".

    `first` is the position of `questions[0]` in the file: what is sampled depends on an item's position.
    """
    generated = write(
        [question.prompt for question in questions],
        max_new_tokens=writing.max_new_tokens,
        eos_id=eos_id(tokenizer),
        stop_ids=newline_ids(tokenizer) if writing.stop_at_newline else (),
        do_sample=writing.do_sample,
        temperature=writing.temperature,
        top_p=writing.top_p,
        seed=writing.seed + first,
    )
    outputs = cast(list[str], tokenizer.batch_decode([answer.ids for answer in generated], skip_special_tokens=True))
    if writing.stop_at_newline:
        outputs = [output.partition("\n")[0] for output in outputs]
    return [
        {"output": output.strip(), "finished": answer.finished}
        for output, answer in zip(outputs, generated, strict=True)
    ]


def newline_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Every token whose text holds a line break."""
    decoded = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [token for token, text in enumerate(decoded) if "\n" in text]


def score_golds(model: PreTrainedModel, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Per item "gold_logprob": log-likelihood of the gold completion, without EOS, in nats."""
    return [{"gold_logprob": scores[0]} for scores in log_likelihoods(model, questions)]


def log_likelihoods(model: PreTrainedModel, questions: Sequence[Question]) -> list[list[float]]:
    requests = [Request(question.context, question.continuations) for question in questions]
    return [[found.sum_logits for found in scores] for scores in score(model, requests)]
