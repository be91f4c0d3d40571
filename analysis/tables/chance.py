"""Scores of a model that knows nothing."""

from analysis.tables.columns import BITS
from open_instruct.tasks import EVAL_SETS

CHANCE = dict.fromkeys(("mnli_matched", "mnli_mismatched", "social_iqa", "socialiqa"), 1 / 3) | {"csqa": 0.2}
CHANCE |= dict.fromkeys(("paws", "rte", "mrpc", "qqp", "boolq", "piqa", "winogrande", "copa", "sst2"), 0.5)
CHANCE |= dict.fromkeys(("qnli", "wnli", "wic", "wsc"), 0.5) | {"mathqa": 0.2}
CHANCE |= dict.fromkeys(("arc_easy", "arc_challenge", "hellaswag", "openbookqa", "sciq", "mmlu", "logiqa"), 0.25)
"""Accuracy by chance, by evaluation set; generated text is never right by chance."""


def chance_of(eval_set: str, kind: str) -> float | None:
    """Score by chance; None where it is unknown."""
    if kind == "generation":
        return 0.0
    labels = getattr(EVAL_SETS.get(eval_set), "labels", None)
    return 1 / len(labels) if labels and kind == "labels" else CHANCE.get(eval_set)


def bottom_of(metric: str, eval_set: str, kind: str) -> float | None:
    """What a score must exceed to say something: bits per byte 0, which they always do; None where it is unknown."""
    return 0.0 if metric == BITS else chance_of(eval_set, kind)
