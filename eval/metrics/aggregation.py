"""The metrics of one prediction file by its kind: item by item, and over all items with bootstrap intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from eval.metrics import item_metrics
from eval.metrics.bootstrap import Interval, Method, bootstrap_mean, bootstrap_table

NO_LABEL = ""
"""Stands in the confusion matrix for every output that is not a label; it is never correct."""
TOP_PREDICTION = "most_frequent_prediction"
"""Metric: share of the items that get the prediction which is the most frequent one."""
Records = Sequence[Mapping[str, Any]]


def item_values(
    records: Records, kind: str, primary: str | None = None, answer: str | None = None
) -> dict[str, list[Any]]:
    """Per-item arrays of a metrics file: `id`, the primary metric, and the code length of the gold completion.

    `primary` is that of the evaluation set, where it is not that of the kind; `answer` says what exact match compares.
    Where the records say which items belong together, so does `cluster`.
    """
    gold = [record["completion"] for record in records]
    values: dict[str, list[Any]] = {"id": [record["id"] for record in records]}
    if "cluster" in records[0]:
        values["cluster"] = [record.get("cluster") for record in records]
    if primary == "exact_match":
        outputs = [record["output"] for record in records]
        answers = [item_metrics.answers(texts, answer) for texts in (outputs, gold)]
        values["exact_match"] = item_metrics.exact_match(*answers).tolist()
    if kind == "generation":
        values["rouge_l"] = item_metrics.rouge_l([record["output"] for record in records], gold).tolist()
    if kind == "labels":
        values["accuracy"] = item_metrics.exact_match([record["output"] for record in records], gold).tolist()
    if "gold_logprob" in records[0]:
        values["gold_bits"] = item_metrics.bits([record["gold_logprob"] for record in records]).tolist()
        values["gold_bytes"] = item_metrics.utf8_lengths(gold).tolist()
    return values


def aggregate(
    records: Records,
    values: Mapping[str, Sequence[Any]],
    kind: str,
    *,
    seed: int,
    num_resamples: int,
    method: Method,
) -> dict[str, Interval]:
    """Every metric of this kind over all items, with its interval; `values` are those of `item_values`."""
    mean = partial(bootstrap_mean, seed=seed, num_resamples=num_resamples, method=method)
    outputs = [record.get("output", "").strip() for record in records]
    gold = [record["completion"].strip() for record in records]
    result = {}
    if kind == "generation":
        result["rouge_l"] = mean(values["rouge_l"])
        result["exact_match"] = mean(values.get("exact_match") or item_metrics.exact_match(outputs, gold))
    if kind == "labels":
        choices = [list(record["scores"] if "scores" in record else record["labels"]) for record in records]
        is_correct, num_labels = np.array(values["accuracy"]), list(map(len, choices))
        labels = {label.strip() for of_record in choices for label in of_record}
        predicted = [output if output in labels else NO_LABEL for output in outputs]
        confusion = item_metrics.confusion(predicted, gold)
        result["accuracy"] = mean(is_correct)
        result["chance_corrected_accuracy"] = mean(item_metrics.chance_corrected(is_correct, num_labels))
        result["macro_f1"] = bootstrap_table(confusion, item_metrics.macro_f1, seed=seed, num_resamples=num_resamples)
        top, _ = Counter(predicted).most_common(1)[0]
        result[TOP_PREDICTION] = mean([float(label == top) for label in predicted])
    if "finished" in records[0]:
        result["finished"] = mean([float(record["finished"]) for record in records])
    if "gold_bits" in values:
        result["bits_per_byte"] = mean(values["gold_bits"], values["gold_bytes"])
    return result
