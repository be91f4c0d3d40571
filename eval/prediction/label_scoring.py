"""Prediction of one of a task's labels, in four ways (`--constraint_type`).

    label        the label with the highest log-likelihood as a whole (default of the corrected protocol)
    next_word    the label with the most likely next token, among all tokens of `label` and ` label` (default of the
                 paper's protocol)
    constraint   constrained greedy decoding: at each step the most likely token that continues a label
    none         the label that a free generation begins with

All but next_word record the log-likelihood of every whole label in `scores`; where one label begins another, such as
`yes` and `yes and no`, that of each with EOS, for the shorter would be the more likely whatever the model.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.prediction import requests
from eval.prediction.prediction_spec import Constraint
from eval.prediction.requests import EncodedItem, encode_separately
from open_instruct.common.errors import UserError
from open_instruct.common.special_tokens import token_ids
from open_instruct.data.encode import encode_pairs, eos_id


def encode(
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[str],
    constraint: Constraint,
    *,
    separately: bool,
) -> list[EncodedItem]:
    """Items with every label, or every sub-token, as continuations. `separately`: the prompt ends with the space."""
    if constraint == "next_word":
        return encode_separately(tokenizer, pairs, [[token] for _, token in sub_tokens(tokenizer, labels)])
    if separately:
        encoded = token_ids(tokenizer, labels)["input_ids"]
        require_distinct(encoded, labels)
        items = encode_separately(tokenizer, pairs, encoded)
    else:
        items = encode_labels_jointly(tokenizer, pairs, labels)
    # Constrained decoding ends every label itself.
    return items if constraint == "constraint" else [with_ends(tokenizer, item, len(labels)) for item in items]


def encode_labels_jointly(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]], labels: Sequence[str]
) -> list[EncodedItem]:
    """Items whose labels are scored as wholes, after the white space that the gold completion begins with.

    Raises UserError for a gold completion that is not a label, and for labels with the same tokens.
    """
    choices, golds = [], []
    for prompt, completion in pairs:
        if completion.strip() not in labels:
            raise UserError(f"the gold completion {completion!r} is none of the labels {', '.join(labels)}")
        golds.append(labels.index(completion.strip()))
        space = completion[: len(completion) - len(completion.lstrip())]
        choices += [(prompt, space + label) for label in labels]
    encoded = iter(encode_pairs(tokenizer, choices))
    items = []
    for gold, (prompt, _) in zip(golds, pairs, strict=True):
        of_item = [next(encoded) for _ in labels]
        continuations, context = [pair.completion for pair in of_item], of_item[0].prompt
        require_distinct(continuations, labels)
        if any(pair.prompt != context for pair in of_item):
            raise UserError(
                f"the tokens of the prompt {prompt[-60:]!r} depend on the label after it; end it differently"
            )
        items.append(EncodedItem(context, continuations, gold))
    return items


def with_ends(tokenizer: PreTrainedTokenizerFast, item: EncodedItem, num_labels: int) -> EncodedItem:
    """The item with EOS after each label where one begins another: as wholes, the longer could never win.

    The gold completion is scored as ever, without EOS.
    """
    labels = item.continuations[:num_labels]
    if not one_begins_another(labels):
        return item
    ended = [[*ids, eos_id(tokenizer)] for ids in labels]
    return dataclasses.replace(item, continuations=[*ended, item.continuations[item.gold]], gold=num_labels)


def one_begins_another(labels: Sequence[Sequence[int]]) -> bool:
    return any(one != other and list(other[: len(one)]) == list(one) for one in labels for other in labels)


def require_distinct(encoded: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    if len(set(map(tuple, encoded))) < len(labels):
        raise UserError(
            f"two of the labels {', '.join(labels)} have the same tokens; use the tokenizer in the model's folder"
        )


def sub_tokens(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> list[tuple[str, int]]:
    """(label, token) for every token of `label` and ` label`: the paper compares their next-token probabilities."""
    found = []
    for label in labels:
        both = token_ids(tokenizer, [label, f" {label}"])["input_ids"]
        found += [(label, token) for token in sorted({token for ids in both for token in ids})]
    of_label = {label: {token for of, token in found if of == label} for label in labels}
    require_distinct([sorted(tokens) for tokens in of_label.values()], labels)
    for label, other in itertools.permutations(labels, 2):
        if of_label[label] < of_label[other]:
            raise UserError(
                f"every sub-token of the label {label!r} is one of {other!r} too, which is never less likely; use "
                "--constraint_type label"
            )
    return found


def predict_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[EncodedItem],
    labels: Sequence[str],
    constraint: Constraint,
) -> list[dict[str, Any]]:
    """Per item "output" (a label), "scores" (label -> log-likelihood in nats) and "gold_logprob"."""
    if constraint == "constraint":
        return constrained_greedy_decoding(model, items, labels, eos_id(tokenizer))
    if constraint == "next_word":
        return most_likely(model, items, [label for label, _ in sub_tokens(tokenizer, labels)])
    return most_likely(model, items, labels)


def most_likely(model: PreTrainedModel, items: Sequence[EncodedItem], labels: Sequence[str]) -> list[dict[str, Any]]:
    """`predict_labels` by log-likelihood; `labels` names the label of each continuation, of which the best counts."""
    predictions = []
    for item, scores in zip(items, requests.log_likelihoods(model, items), strict=True):
        by_label: dict[str, float] = {}
        for label, value in zip(labels, scores, strict=False):  # the gold completion may follow them
            by_label[label] = max(value, by_label.get(label, value))
        predictions.append(prediction(by_label, gold_logprob=scores[item.gold]))
    return predictions


def constrained_greedy_decoding(
    model: PreTrainedModel, items: Sequence[EncodedItem], labels: Sequence[str], eos: int
) -> list[dict[str, Any]]:
    """`predict_labels` by greedy decoding that may generate labels and EOS only."""
    prefixes = [label_prefixes(item.continuations[: len(labels)], eos) for item in items]
    scored = [
        dataclasses.replace(item, continuations=[*map(list, of_item), item.continuations[item.gold]])
        for item, of_item in zip(items, prefixes, strict=True)
    ]
    predictions = []
    for item, of_item, scores in zip(items, prefixes, requests.log_likelihoods(model, scored), strict=True):
        by_prefix = dict(zip(of_item, scores, strict=False))
        ended: dict[tuple[int, ...], str] = {
            (*ids, eos): label for ids, label in zip(item.continuations, labels, strict=False)
        }
        # Without EOS, a label that begins another is never less likely.
        end = None if one_begins_another([ids[:-1] for ids in ended]) else -1
        by_label = {label: by_prefix[ids[:end]] for ids, label in ended.items()}
        generated: tuple[int, ...] = ()
        while generated not in ended:
            # All of them add one token to the same prefix: the most likely sequence has the most likely next token.
            longer = [ids for ids in of_item if len(ids) == len(generated) + 1 and ids[:-1] == generated]
            generated = max(longer, key=by_prefix.__getitem__)
        predictions.append(prediction(by_label, gold_logprob=scores[-1], output=ended[generated]))
    return predictions


def prediction(scores: Mapping[str, float], *, gold_logprob: float, output: str | None = None) -> dict[str, Any]:
    """The fields of one prediction; `output` is by default the first label with the highest score."""
    output = max(scores, key=scores.__getitem__) if output is None else output
    return {"output": output, "scores": scores, "gold_logprob": gold_logprob}


def label_prefixes(labels: Sequence[Sequence[int]], eos: int) -> list[tuple[int, ...]]:
    """Every distinct prefix of every label followed by EOS, which makes no label a prefix of another."""
    ended = [(*ids, eos) for ids in labels]
    return list(dict.fromkeys(ids[:length] for ids in ended for length in range(1, len(ids) + 1)))
