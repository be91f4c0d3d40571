"""Ranked classification: score every continuation of an instance and predict the one with the best score.

Context and continuation are tokenised separately, as in the OLMo-Eval pipeline, or as one text by tokenizers that treat
the beginning of a text as such. What the tokenizer puts before a text, such as BOS, begins each context. The scores are

    raw          log-likelihood of the continuation, in nats
    per_token    raw / its number of tokens
    per_char     raw / its number of characters, the leading space included (`{task}:olmo`: excluded)
    uncond       raw - its log-likelihood after the context "Answer:"
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine.log_likelihood import Request, Score, score
from eval.metrics.bootstrap import standard_error
from olmo_eval.instances import Instance
from open_instruct.common.errors import UserError
from open_instruct.common.special_tokens import beginning, token_ids
from open_instruct.data.encode import Pair, encode_pairs, encode_prompts, eos_id, last_tokens


@dataclass(frozen=True)
class Option:
    """One continuation of an instance, tokenised and truncated to the model's length."""

    context: list[int]
    continuation: list[int]
    is_truncated: bool


@dataclass(frozen=True)
class Prediction:
    instance: Instance
    outputs: list[dict[str, Any]]
    """For each continuation: sum_logits, num_tokens, num_tokens_all, is_greedy, num_chars, [sum_logits_uncond]."""
    num_truncated: int
    """Continuations whose context lost its first tokens."""

    def predicted_indices(self) -> dict[str, int]:
        """Index of the best continuation by each score that the outputs allow; the first of equals."""
        scores = {
            "raw": [o["sum_logits"] for o in self.outputs],
            "per_token": [o["sum_logits"] / o["num_tokens"] for o in self.outputs],
            "per_char": [o["sum_logits"] / o["num_chars"] for o in self.outputs],
        }
        if "sum_logits_uncond" in self.outputs[0]:
            scores["uncond"] = [o["sum_logits"] - o["sum_logits_uncond"] for o in self.outputs]
        return {name: values.index(max(values)) for name, values in scores.items()}

    def probability_mass(self) -> float:
        """Sum of the probabilities of all continuations."""
        return sum(math.exp(output["sum_logits"]) for output in self.outputs)


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    instances: Sequence[Instance],
    *,
    unconditioned: str | None,
    max_length: int,
    max_batch_tokens: int,
    counts_space: bool = True,
    progress: Callable[[float], object] | None = None,
) -> list[Prediction]:
    """Score every continuation of every instance; `progress` is called with the number of instances done.

    `unconditioned` is the context of `uncond` (None: there is no such score); for `counts_space` see RankedTask.
    """
    encoded = encode_options(tokenizer, instances, max_length=max_length)
    requests = [request for options in encoded for request in requests_by_context(options).values()]
    num_conditioned = len(requests)
    if unconditioned is not None:
        [context] = encode_prompts(tokenizer, [unconditioned])
        requests += [Request(context, [option.continuation for option in options]) for options in encoded]
    share = len(instances) / max(len(requests), 1)
    scores = score(
        model,
        requests,
        max_batch_tokens=max_batch_tokens,
        progress=(lambda count: progress(count * share)) if progress else None,
    )
    conditioned, unconditioned_scores = iter(scores[:num_conditioned]), iter(scores[num_conditioned:])
    predictions = []
    for instance, options in zip(instances, encoded, strict=True):
        outputs = []
        texts = instance.item.continuations
        for text, option, found in zip(texts, options, in_order(options, conditioned), strict=True):
            output: dict[str, Any] = {"sum_logits": found.sum_logits, "num_tokens": found.num_tokens}
            output |= {"num_tokens_all": len(option.context) + found.num_tokens, "is_greedy": found.is_greedy}
            outputs.append(output | {"num_chars": len(text if counts_space else text.removeprefix(" "))})
        if unconditioned is not None:
            for output, found in zip(outputs, next(unconditioned_scores), strict=True):
                output["sum_logits_uncond"] = found.sum_logits
        predictions.append(Prediction(instance, outputs, sum(option.is_truncated for option in options)))
    return predictions


def requests_by_context(options: Sequence[Option]) -> dict[tuple[int, ...], Request]:
    """One request for each distinct context, in order of first occurrence."""
    requests: dict[tuple[int, ...], Request] = {}
    for option in options:
        request = requests.setdefault(tuple(option.context), Request(option.context, []))
        request.continuations.append(option.continuation)
    return requests


def in_order(options: Sequence[Option], scores: Iterator[list[Score]]) -> Iterator[Score]:
    """The scores of the requests of `options`, in the order of `options`."""
    of_context = {context: iter(next(scores)) for context in requests_by_context(options)}
    return (next(of_context[tuple(option.context)]) for option in options)


def encode_options(
    tokenizer: PreTrainedTokenizerFast, instances: Sequence[Instance], *, max_length: int
) -> list[list[Option]]:
    """Tokenise every continuation with its context, truncated on the left if both exceed `max_length`.

    The last token of a continuation is never an input, so `max_length` + 1 tokens fit.
    Raises UserError for a continuation that leaves no room for any context.
    """
    pairs = [
        pair for instance in instances for pair in zip(instance.item.contexts, instance.item.continuations, strict=True)
    ]
    encode = encode_apart if ids_of_parts_add_up(tokenizer) else encode_pairs
    of_instances, num_first = iter(encode(tokenizer, pairs)), len(beginning(tokenizer))
    encoded = []
    for instance in instances:
        options = []
        for _ in instance.item.contexts:
            pair = next(of_instances)
            room = max_length + 1 - len(pair.completion)
            if room < max(num_first, 1):
                raise UserError(
                    f"{instance.ids}: a continuation has {len(pair.completion)} tokens, the model takes {max_length}; "
                    "raise --model-max-length, or leave this task out"
                )
            context = last_tokens(pair.prompt, room, num_first)
            options.append(Option(context, pair.completion, len(pair.prompt) > room))
        encoded.append(options)
    return encoded


def ids_of_parts_add_up(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether context and continuation have the same ids apart as together: nothing is put before a text as such.

    SentencePiece tokenizers put a space there, which would be a token too many in every continuation.
    """
    return all(
        [*one, *two] == whole
        for texts in (["Q: A?\nA:", " b c"], ["<|user|>\nA?\n<|assistant|>\n", "b c"])
        for one, two, whole in [token_ids(tokenizer, [*texts, "".join(texts)])["input_ids"]]
    )


def encode_apart(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Contexts and continuations as the reference pipeline tokenises them, each for itself."""
    # Most instances have one context for all continuations, with the same exemplars: each is tokenised once.
    distinct = list({context: None for context, _ in pairs})
    ids_of_context = dict(zip(distinct, encode_prompts(tokenizer, distinct), strict=True))
    continuations = token_ids(tokenizer, [continuation for _, continuation in pairs])["input_ids"] if pairs else []
    return [
        Pair(ids_of_context[context], list(ids) or [eos_id(tokenizer)])
        for (context, _), ids in zip(pairs, continuations, strict=True)
    ]


def item_values(predictions: Sequence[Prediction], *, primary: str) -> dict[str, list[Any]]:
    """Values of every instance for paired comparisons of models: `id`, and lists of numbers in the same order.

    `acc` and each `acc_{score}` is 1 if the gold continuation was predicted; `gold_bits` and `gold_bytes` are the code
    length and the UTF-8 length of the gold continuation.
    """
    values: dict[str, list[Any]] = {"id": [p.instance.name for p in predictions], "acc": []}
    for prediction in predictions:
        item = prediction.instance.item
        for name, index in prediction.predicted_indices().items():
            values.setdefault(f"acc_{name}", []).append(float(index == item.gold))
        values.setdefault("gold_bits", []).append(-prediction.outputs[item.gold]["sum_logits"] / math.log(2))
        values.setdefault("gold_bytes", []).append(len(item.continuations[item.gold].encode()))
    return values | {"acc": values[f"acc_{primary}"]}


def summarise(predictions: Sequence[Prediction], *, primary: str) -> dict[str, Any]:
    """Compute the task's `rc_metrics`.

    Besides accuracies: the bits per UTF-8 byte of the gold continuations (`bits_per_byte`, over `gold_bytes` bytes),
    the standard error of each mean over instances (None for a single instance), and the number of truncated contexts.
    """
    values = item_values(predictions, primary=primary)
    predicted = [prediction.predicted_indices() for prediction in predictions]
    metrics: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    for name in predicted[0]:
        metrics[f"acc_{name}"] = sum(values[f"acc_{name}"]) / len(predicted)
        errors[f"acc_{name}"] = standard_error_of(values[f"acc_{name}"])
        counts = sorted(Counter(indices[name] for indices in predicted).items(), key=lambda item: (-item[1], item[0]))
        metrics[f"predicted_indices_{name}"] = [[index, count / len(predicted)] for index, count in counts]
    token_counts = [output["num_tokens_all"] for prediction in predictions for output in prediction.outputs]
    mass = sum(prediction.probability_mass() for prediction in predictions)
    metrics["avg_total_probability_mass"] = mass / len(predictions)
    metrics["primary_metric"] = f"acc_{primary}"
    metrics["total_token_count"] = sum(token_counts)
    metrics["max_token_count"] = max(token_counts)
    metrics["acc"] = metrics[f"acc_{primary}"]
    errors["acc"] = errors[f"acc_{primary}"]
    metrics["bits_per_byte"] = sum(values["gold_bits"]) / sum(values["gold_bytes"])
    errors["bits_per_byte"] = standard_error_of(values["gold_bits"], values["gold_bytes"])
    metrics["gold_bytes"] = sum(values["gold_bytes"])
    metrics["num_truncated_contexts"] = sum(prediction.num_truncated for prediction in predictions)
    metrics["standard_errors"] = errors
    return metrics


def standard_error_of(values: Sequence[float], weights: Sequence[float] | None = None) -> float | None:
    if len(values) < 2:
        return None
    return standard_error(np.asarray(values), np.asarray(weights or [1.0] * len(values), dtype=np.float64))


def instance_record(
    prediction: Prediction, *, primary: str, unconditioned: str | None, with_input: bool
) -> dict[str, Any]:
    """One element of the full output's `instance_predictions`."""
    item = prediction.instance.item
    predicted = prediction.predicted_indices()
    metrics: dict[str, Any] = {f"acc_{name}": float(index == item.gold) for name, index in predicted.items()}
    metrics |= {f"predicted_index_{name}": index for name, index in predicted.items()}
    metrics |= {"probability_mass": prediction.probability_mass(), "acc": metrics[f"acc_{primary}"]}
    inner: dict[str, Any] = {"model_output": prediction.outputs, "correct_choice": item.gold}
    if with_input and unconditioned is not None:
        inner["unconditioned_input"] = [[unconditioned, continuation] for continuation in item.continuations]
    result = {"instance": prediction.instance.ids, "prediction": inner | {"metrics": metrics}}
    if with_input:
        result["model_input"] = [list(pair) for pair in zip(item.contexts, item.continuations, strict=True)]
    return result
