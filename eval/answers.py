"""What a model answers to evaluation items: text that it writes, the label that it finds likeliest, the likelihood of
the gold completion. Used by predict.py; everything here needs torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.generation import generate
from eval.scoring import Request, score
from open_instruct.encode import chat_prompt, encode_pairs, encode_prompts, eos_id
from open_instruct.records import UserError


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


def encode_choices(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], labels: Sequence[str]
) -> list[Question]:
    """Items of which every label is scored as a whole, with the white space that the gold completion begins with.

    Raises UserError for a gold completion that is no label, and for labels that the tokenizer cannot tell apart.
    """
    choices, golds = [], []
    for prompt, completion in pairs:
        if completion.strip() not in labels:
            raise UserError(f"the gold completion {completion!r} is none of the labels {', '.join(labels)}")
        golds.append(labels.index(completion.strip()))
        space = completion[: len(completion) - len(completion.lstrip())]
        choices += [(prompt, space + label) for label in labels]
    encoded = iter(encode_pairs(tokenizer, choices))
    questions = []
    for gold, (prompt, _) in zip(golds, pairs, strict=True):
        of_item = [next(encoded) for _ in labels]
        if len({tuple(pair.completion) for pair in of_item}) < len(labels):
            raise UserError(f"the tokenizer cannot tell the labels {', '.join(labels)} apart; use the model's own")
        if any(pair.prompt != of_item[0].prompt for pair in of_item):
            raise UserError(f"the tokens of the prompt {prompt[-60:]!r} depend on the label after it; end it otherwise")
        context = of_item[0].prompt
        questions.append(Question(context, context, [pair.completion for pair in of_item], gold))
    return questions


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


def sub_tokens(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[tuple[str, int]]:
    """(label, token) for every token of `label` and ` label`: what the paper compares as the next token."""
    found = []
    for label in labels:
        both = tokenizer([label, f" {label}"], add_special_tokens=False)["input_ids"]
        found += [(label, token) for token in sorted({token for ids in both for token in ids})]
    return found


def fit(
    questions: Sequence[Question], *, max_length: int, max_new_tokens: int, cut_left: bool, name: str
) -> tuple[list[Question], int]:
    """The questions, and how many contexts lost their oldest tokens to leave room for the answer.

    Raises UserError for contexts that are too long, unless `cut_left`, and for answers that are too long by themselves.
    """
    rooms = [
        max_length - max(max_new_tokens, *(len(tokens) for tokens in question.continuations)) for question in questions
    ]
    if questions and min(rooms) < 1:
        raise UserError(
            f"{name}: the longest answer needs {max_length - min(rooms)} tokens, the model takes {max_length}"
        )
    lengths = [max(len(question.prompt), len(question.context)) for question in questions]
    num_long = sum(length > room for length, room in zip(lengths, rooms, strict=True))
    if num_long and not cut_left:
        raise UserError(
            f"{name}: {num_long} of {len(questions)} prompts leave no room for the answer (longest {max(lengths)} "
            f"tokens, the model takes {max_length} with the answer); add --truncate_left to cut them on the left"
        )
    cut = [
        dataclasses.replace(question, prompt=question.prompt[-room:], context=question.context[-room:])
        for question, room in zip(questions, rooms, strict=True)
    ]
    return cut, num_long


def write_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    writing: Writing,
    *,
    first: int,
) -> list[dict[str, Any]]:
    """Per item "output" (generated text without white space around it) and "finished".

    `first` is the position of `questions[0]` in the file: what is sampled depends on an item's position.
    """
    generated = generate(
        model,
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


def choose_labels(model: PreTrainedModel, questions: Sequence[Question], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Per item "output" (the likeliest label), "scores" (label -> log-likelihood in nats) and "gold_logprob"."""
    answers = []
    for question, scores in zip(questions, log_likelihoods(model, questions), strict=True):
        by_label = dict(zip(labels, scores, strict=True))
        likeliest = max(labels, key=by_label.__getitem__)
        answers.append({"output": likeliest, "scores": by_label, "gold_logprob": scores[question.gold]})
    return answers


def choose_by_sub_token(
    model: PreTrainedModel, questions: Sequence[Question], tokens: Sequence[tuple[str, int]]
) -> list[dict[str, Any]]:
    """As `choose_labels`; a label's score is that of its likeliest sub-token. `questions` ask for `tokens` first."""
    answers = []
    for question, scores in zip(questions, log_likelihoods(model, questions), strict=True):
        by_label: dict[str, float] = {}
        for (label, _), found in zip(tokens, scores[: len(tokens)], strict=True):
            by_label[label] = max(found, by_label.get(label, found))
        likeliest = max(by_label, key=by_label.__getitem__)
        answers.append({"output": likeliest, "scores": by_label, "gold_logprob": scores[question.gold]})
    return answers


def score_golds(model: PreTrainedModel, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Per item "gold_logprob": log-likelihood of the gold completion, without EOS, in nats."""
    return [{"gold_logprob": scores[0]} for scores in log_likelihoods(model, questions)]


def log_likelihoods(model: PreTrainedModel, questions: Sequence[Question]) -> list[list[float]]:
    requests = [Request(question.context, question.continuations) for question in questions]
    return [[found.sum_logits for found in scores] for scores in score(model, requests)]
