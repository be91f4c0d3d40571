"""How a model chooses one of a task's labels: four ways (`--constraint_type`), of which the protocol names its own.

    label        the label of highest log-likelihood, scored as a whole (the corrected protocol)
    next_word    the label with the likeliest next token, of all tokens of `label` and ` label` (the paper's protocol)
    constraint   greedy decoding that may write labels only: token by token the likeliest that goes on with a label
    none         what the model writes freely, if that is a label

All but next_word record every label's log-likelihood in `scores`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.prediction import requests
from eval.prediction.arguments import Constraint
from eval.prediction.requests import Question, encode_apart
from open_instruct.common.errors import UserError
from open_instruct.data.encode import encode_pairs, eos_id


def encode(
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[str],
    constraint: Constraint,
    *,
    apart: bool,
) -> list[Question]:
    """Items with what is asked of each: every label, or every sub-token. `apart`: the prompt holds the space."""
    if constraint == "next_word":
        return encode_apart(tokenizer, pairs, [[token] for _, token in sub_tokens(tokenizer, labels)])
    if apart:
        return encode_apart(tokenizer, pairs, encode_labels(tokenizer, labels))
    return encode_choices(tokenizer, pairs, labels)


def encode_labels(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[list[int]]:
    encoded = [list(ids) for ids in tokenizer(list(labels), add_special_tokens=False)["input_ids"]]
    require_different(encoded, labels)
    return encoded


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
        require_different([pair.completion for pair in of_item], labels)
        if any(pair.prompt != of_item[0].prompt for pair in of_item):
            raise UserError(f"the tokens of the prompt {prompt[-60:]!r} depend on the label after it; end it otherwise")
        context = of_item[0].prompt
        questions.append(Question(context, context, [pair.completion for pair in of_item], gold))
    return questions


def require_different(encoded: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    if len(set(map(tuple, encoded))) < len(labels):
        raise UserError(f"the tokenizer cannot tell the labels {', '.join(labels)} apart; use the model's own")


def sub_tokens(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[tuple[str, int]]:
    """(label, token) for every token of `label` and ` label`: what the paper compares as the next token."""
    found = []
    for label in labels:
        both = tokenizer([label, f" {label}"], add_special_tokens=False)["input_ids"]
        found += [(label, token) for token in sorted({token for ids in both for token in ids})]
    require_different([[token for of, token in found if of == label] for label in labels], labels)
    return found


def choose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    labels: Sequence[str],
    constraint: Constraint,
) -> list[dict[str, Any]]:
    """Per item "output" (a label), "scores" (label -> log-likelihood in nats) and "gold_logprob"."""
    if constraint == "next_word":
        return choose_by_sub_token(model, questions, sub_tokens(tokenizer, labels))
    if constraint == "constraint":
        return choose_by_greedy_decoding(model, questions, labels, eos_id(tokenizer))
    return choose_labels(model, questions, labels)


def choose_labels(model: PreTrainedModel, questions: Sequence[Question], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Per item "output" (the likeliest label), "scores" (label -> log-likelihood in nats) and "gold_logprob"."""
    chosen = []
    for question, scores in zip(questions, requests.log_likelihoods(model, questions), strict=True):
        by_label = dict(zip(labels, scores, strict=False))  # the gold completion may follow them
        likeliest = max(labels, key=by_label.__getitem__)
        chosen.append({"output": likeliest, "scores": by_label, "gold_logprob": scores[question.gold]})
    return chosen


def choose_by_sub_token(
    model: PreTrainedModel, questions: Sequence[Question], tokens: Sequence[tuple[str, int]]
) -> list[dict[str, Any]]:
    """As `choose_labels`; a label's score is that of its likeliest sub-token. `questions` ask for `tokens` first."""
    chosen = []
    for question, scores in zip(questions, requests.log_likelihoods(model, questions), strict=True):
        by_label: dict[str, float] = {}
        for (label, _), found in zip(tokens, scores[: len(tokens)], strict=True):
            by_label[label] = max(found, by_label.get(label, found))
        likeliest = max(by_label, key=by_label.__getitem__)
        chosen.append({"output": likeliest, "scores": by_label, "gold_logprob": scores[question.gold]})
    return chosen


def choose_by_greedy_decoding(
    model: PreTrainedModel, questions: Sequence[Question], labels: Sequence[str], eos: int
) -> list[dict[str, Any]]:
    """As `choose_labels`, but "output" is what greedy decoding writes where it may write labels and EOS only."""
    beginnings = [beginnings_of(question.continuations[: len(labels)], eos) for question in questions]
    asked = [
        dataclasses.replace(question, continuations=[*map(list, texts), question.continuations[question.gold]])
        for question, texts in zip(questions, beginnings, strict=True)
    ]
    chosen = []
    for question, texts, found in zip(questions, beginnings, requests.log_likelihoods(model, asked), strict=True):
        of_text = dict(zip(texts, found, strict=False))
        ends: dict[tuple[int, ...], str] = {
            (*ids, eos): label for ids, label in zip(question.continuations, labels, strict=False)
        }
        by_label = {label: of_text[ids[:-1]] for ids, label in ends.items()}
        written: tuple[int, ...] = ()
        while written not in ends:
            # All of them add a token to the same text, so that the likeliest text has the likeliest token.
            longer = [ids for ids in texts if len(ids) == len(written) + 1 and ids[:-1] == written]
            written = max(longer, key=of_text.__getitem__)
        chosen.append({"output": ends[written], "scores": by_label, "gold_logprob": found[-1]})
    return chosen


def beginnings_of(labels: Sequence[Sequence[int]], eos: int) -> list[tuple[int, ...]]:
    """Every beginning of every label, each once; EOS ends a label, so that none is the beginning of another."""
    ended = [(*ids, eos) for ids in labels]
    return list(dict.fromkeys(ids[:length] for ids in ended for length in range(1, len(ids) + 1)))


def read_label(written: Mapping[str, Any], labels: Sequence[str], parse_order: Sequence[str]) -> dict[str, Any]:
    """A written text as "text", and as "output" the label that it begins with, else the text.

    With `parse_order` it is the first of these words that occurs anywhere in the text, as the paper took it.
    """
    text = written["output"]
    if parse_order:
        output = next((word for word in parse_order if word in text), text)
    else:
        label = re.match(rf"({'|'.join(map(re.escape, labels))})(?!\w)", text)
        output = label[1] if label else text
    return {**written, "output": output, "text": text}
