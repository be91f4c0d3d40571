"""Ranked classification: score every continuation of an instance, and see which way of comparing picks the right one.

Context and continuation are tokenised apart, without special tokens. The scores compared are

    raw          log-likelihood of the continuation, in nats
    per_token    raw / its number of tokens
    per_char     raw / its number of characters, the leading space included (`{task}:olmo`: not included)
    uncond       raw - its log-likelihood after the context "Answer:"
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.engine.scoring import Request, Score, score
from eval.metrics.bootstrap import standard_error
from olmo_eval.instances import Instance
from open_instruct.common.errors import UserError
from open_instruct.data.encode import encode_prompts


@dataclass(frozen=True)
class Option:
    """One continuation of an instance, tokenised and cut to the model's length."""

    context: list[int]
    continuation: list[int]
    is_cut: bool


@dataclass(frozen=True)
class Prediction:
    instance: Instance
    outputs: list[dict[str, Any]]
    """For each continuation: sum_logits, num_tokens, num_tokens_all, is_greedy, num_chars, [sum_logits_uncond]."""
    num_cut: int
    """How many of its contexts lost their beginning."""

    def chosen(self) -> dict[str, int]:
        """Index of the best continuation by each score the outputs allow; the first of equals."""
        scores = {
            "raw": [o["sum_logits"] for o in self.outputs],
            "per_token": [o["sum_logits"] / o["num_tokens"] for o in self.outputs],
            "per_char": [o["sum_logits"] / o["num_chars"] for o in self.outputs],
        }
        if "sum_logits_uncond" in self.outputs[0]:
            scores["uncond"] = [o["sum_logits"] - o["sum_logits_uncond"] for o in self.outputs]
        return {name: values.index(max(values)) for name, values in scores.items()}

    def mass(self) -> float:
        """Probability of all continuations together, as if they excluded each other."""
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
    """Scores of every continuation of every instance; `progress` is called with the number of instances done.

    `unconditioned` is the context of `uncond` (None: there is no such score); for `counts_space` see RankedTask.
    """
    encoded = encode_options(tokenizer, instances, max_length=max_length)
    requests: list[Request] = []
    places = []  # for each option: which request, and which of its continuations
    for options in encoded:
        by_context: dict[tuple[int, ...], int] = {}
        for option in options:
            key = tuple(option.context)
            if key not in by_context:
                by_context[key] = len(requests)
                requests.append(Request(option.context, []))
            request = requests[by_context[key]]
            places.append((by_context[key], len(request.continuations)))
            request.continuations.append(option.continuation)
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
    place = iter(places)
    predictions = []
    for index, (instance, options) in enumerate(zip(instances, encoded, strict=True)):
        conditioned = [scores[request][position] for request, position in (next(place) for _ in options)]
        plain = scores[num_conditioned + index] if unconditioned is not None else None
        outputs = describe(instance, options, conditioned, plain, counts_space=counts_space)
        predictions.append(Prediction(instance, outputs, sum(option.is_cut for option in options)))
    return predictions


def encode_options(
    tokenizer: PreTrainedTokenizerFast, instances: Sequence[Instance], *, max_length: int
) -> list[list[Option]]:
    """Every instance's continuations with their contexts, which keep their last tokens where both exceed `max_length`.

    The last token of a continuation is never an input, so `max_length` + 1 tokens fit.
    Raises UserError for a continuation that leaves no room for any context.
    """
    # Tokenizers that put a space before a text themselves would see two.
    adds_space = len({tuple(ids) for ids in encode_prompts(tokenizer, ["A", " A"])}) == 1
    texts = [c.removeprefix(" ") if adds_space else c for instance in instances for c in instance.item.continuations]
    contexts = iter(encode_prompts(tokenizer, [c for instance in instances for c in instance.item.contexts]))
    continuations = iter(encode_prompts(tokenizer, texts))
    encoded = []
    for instance in instances:
        options = []
        for _ in instance.item.continuations:
            context, continuation = next(contexts), next(continuations)
            room = max_length + 1 - len(continuation)
            if room < 1:
                raise UserError(
                    f"{instance.ids}: a continuation has {len(continuation)} tokens, the model takes {max_length}; "
                    "raise --model-max-length, or leave this task out"
                )
            options.append(Option(context[-room:], continuation, len(context) > room))
        encoded.append(options)
    return encoded


def describe(
    instance: Instance,
    options: Sequence[Option],
    scores: Sequence[Score],
    plain: Sequence[Score] | None,
    *,
    counts_space: bool,
) -> list[dict[str, Any]]:
    outputs = []
    for index, (option, found) in enumerate(zip(options, scores, strict=True)):
        text = instance.item.continuations[index]
        output = {
            "sum_logits": found.sum_logits,
            "num_tokens": found.num_tokens,
            "num_tokens_all": len(option.context) + found.num_tokens,
            "is_greedy": found.is_greedy,
            "num_chars": len(text if counts_space else text.removeprefix(" ")),
        }
        if plain is not None:
            output["sum_logits_uncond"] = plain[index].sum_logits
        outputs.append(output)
    return outputs


def item_values(predictions: Sequence[Prediction], *, primary: str) -> dict[str, list[Any]]:
    """What every instance was worth, for paired comparisons of models: `id`, and lists of numbers beside it.

    `acc` and each `acc_{score}` is 1 where the right continuation was chosen; `gold_bits` and `gold_bytes` are the code
    length and the UTF-8 length of the right continuation.
    """
    values: dict[str, list[Any]] = {"id": [p.instance.name for p in predictions], "acc": []}
    for prediction in predictions:
        item = prediction.instance.item
        for name, pick in prediction.chosen().items():
            values.setdefault(f"acc_{name}", []).append(float(pick == item.gold))
        values.setdefault("gold_bits", []).append(-prediction.outputs[item.gold]["sum_logits"] / math.log(2))
        values.setdefault("gold_bytes", []).append(len(item.continuations[item.gold].encode()))
    return values | {"acc": values[f"acc_{primary}"]}


def summarise(predictions: Sequence[Prediction], *, primary: str) -> dict[str, Any]:
    """The task's `rc_metrics`.

    Beside accuracies: the bits per UTF-8 byte of the gold continuations (`bits_per_byte`, over `gold_bytes` bytes),
    the standard error of each mean over instances (None for a single instance), and how many contexts were cut.
    """
    values = item_values(predictions, primary=primary)
    chosen = [prediction.chosen() for prediction in predictions]
    metrics: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    for name in chosen[0]:
        metrics[f"acc_{name}"] = sum(values[f"acc_{name}"]) / len(chosen)
        errors[f"acc_{name}"] = error_of(values[f"acc_{name}"])
        counts = sorted(Counter(choice[name] for choice in chosen).items(), key=lambda item: (-item[1], item[0]))
        metrics[f"predicted_indices_{name}"] = [[index, count / len(chosen)] for index, count in counts]
    outputs = [output for prediction in predictions for output in prediction.outputs]
    metrics["avg_total_probability_mass"] = sum(prediction.mass() for prediction in predictions) / len(predictions)
    metrics["primary_metric"] = f"acc_{primary}"
    metrics["total_token_count"] = sum(o["num_tokens_all"] for o in outputs)
    metrics["max_token_count"] = max(o["num_tokens_all"] for o in outputs)
    metrics["acc"] = metrics[f"acc_{primary}"]
    errors["acc"] = errors[f"acc_{primary}"]
    metrics["bits_per_byte"] = sum(values["gold_bits"]) / sum(values["gold_bytes"])
    errors["bits_per_byte"] = error_of(values["gold_bits"], values["gold_bytes"])
    metrics["gold_bytes"] = sum(values["gold_bytes"])
    metrics["num_truncated_contexts"] = sum(prediction.num_cut for prediction in predictions)
    metrics["standard_errors"] = errors
    return metrics


def error_of(values: Sequence[float], weights: Sequence[float] | None = None) -> float | None:
    if len(values) < 2:
        return None
    return standard_error(np.asarray(values), np.asarray(weights or [1.0] * len(values), dtype=np.float64))


def record(prediction: Prediction, *, primary: str, unconditioned: str | None, with_input: bool) -> dict[str, Any]:
    """One element of the full output's `instance_predictions`."""
    item = prediction.instance.item
    chosen = prediction.chosen()
    metrics: dict[str, Any] = {f"acc_{name}": float(pick == item.gold) for name, pick in chosen.items()}
    metrics |= {f"predicted_index_{name}": pick for name, pick in chosen.items()}
    metrics |= {"probability_mass": prediction.mass(), "acc": metrics[f"acc_{primary}"]}
    inner: dict[str, Any] = {"model_output": prediction.outputs, "correct_choice": item.gold}
    if with_input and unconditioned is not None:
        inner["unconditioned_input"] = [[unconditioned, continuation] for continuation in item.continuations]
    result = {"instance": prediction.instance.ids, "prediction": inner | {"metrics": metrics}}
    if with_input:
        result["model_input"] = [list(pair) for pair in zip(item.contexts, item.continuations, strict=True)]
    return result
