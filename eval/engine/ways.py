"""How a model is evaluated: the fastest way that computes what its plain forward pass does.

A faster way is compared with the plain pass on a probe (plain_pass.py), once a model; where it differs or cannot run,
the next one is compared. The last one needs no comparison, or the model is refused by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from eval.engine.prefix_attention import is_out_of_memory
from open_instruct.common.errors import UserError
from open_instruct.common.plain_pass import (
    Deviation,
    Probe,
    attention_window,
    exceeds,
    fault,
    in_float32,
    logit_option,
    probe,
    remembers_lengths,
    rope_switch,
)

PREFIX_TREE, PADDED, ALONE = "prefix tree", "padded batches", "one text at a time"
"""Of log-likelihoods."""
OWN_CACHE, GENERATE, WITHOUT_CACHE = "own key-value cache", "transformers' generate", "generate without a cache"
"""Of generation."""


@dataclass(frozen=True)
class Candidate:
    name: str
    deviation: Deviation | None
    """None needs no comparison."""
    is_own: bool = False
    """Whether it knows neither the model's attention window nor what the model does to the logits of its head."""
    is_plain: bool = False
    """Whether it computes sequences of one length only, and each from its beginning."""


_right: WeakKeyDictionary[PreTrainedModel, dict[tuple[str, ...], tuple[str | None, tuple[str, ...]]]] = (
    WeakKeyDictionary()
)
"""By task, variant and candidates: the name of the first that is right, and what is wrong with those before it."""
_probes: WeakKeyDictionary[PreTrainedModel, dict[torch.dtype, tuple[list[int], Probe]]] = WeakKeyDictionary()
"""By precision, with the versions of the weights that it was computed with."""
_taken: WeakKeyDictionary[PreTrainedModel, dict[str, str]] = WeakKeyDictionary()


def choose(
    model: PreTrainedModel, task: str, candidates: Sequence[Candidate], *, longest: int, variant: str = ""
) -> str:
    """The name of the first candidate that deviates by no more than noise; it is recorded for `ways`.

    candidates: the fastest first; longest: tokens of a sequence; variant: of the task, which is compared by itself.
    Raises UserError where there is none, and for a model that is no causal language model.
    """
    reasons = {each.name: reason for each in candidates if (reason := why_unchecked(model, each, longest=longest))}
    candidates = [each for each in candidates if each.name not in reasons]
    right, key = _right.setdefault(model, {}), (task, variant, *(each.name for each in candidates))
    if key not in right:
        right[key] = first_right(model, candidates)
    name, faults = right[key]
    why = "; ".join([*(f"{each}: {reason}" for each, reason in reasons.items()), *faults])
    if name is None:
        raise UserError(f"{type(model).__name__}: no {task} is right for this model ({why}); choose another model")
    taken = _taken.setdefault(model, {})
    text = f"{name} ({why})" if why else name
    if why and taken.get(task) != text:
        print(f"{task} by {text}", flush=True)
    taken[task] = text
    return name


def why_unchecked(model: PreTrainedModel, candidate: Candidate, *, longest: int) -> str | None:
    """Why a short probe cannot vouch for a way with sequences of `longest` tokens, or None."""
    window, switch = attention_window(model.config), rope_switch(model.config)
    if exceeds(longest, switch) and (not candidate.is_plain or remembers_lengths(model.config)):
        return f"rotary embeddings change beyond {switch} tokens, a sequence has {longest}"
    if candidate.is_own and exceeds(longest, window):
        return f"{longest} tokens exceed the attention window of {window}"
    return logit_option(model.config) if candidate.is_own else None


def first_right(model: PreTrainedModel, candidates: Sequence[Candidate]) -> tuple[str | None, tuple[str, ...]]:
    """Name of the first right candidate or None, and what is wrong with those before it."""
    was_training, faults = model.training, []
    model.eval()
    try:
        for candidate in candidates:
            reason = fault_of(model, candidate)
            if reason is None:
                return candidate.name, tuple(faults)
            faults.append(reason)
    finally:
        model.train(was_training)
    return None, tuple(faults)


def fault_of(model: PreTrainedModel, candidate: Candidate) -> str | None:
    """What is wrong with a way in the precision of the weights, or in float32, whose noise hides nothing."""
    reason = fault(candidate.name, candidate.deviation, current_probe(model))
    if reason or candidate.deviation is None or model.dtype == torch.float32:
        return reason
    try:
        with in_float32(model):
            return fault(candidate.name, candidate.deviation, current_probe(model))
    except RuntimeError as error:
        if not is_out_of_memory(error, is_smallest=False):
            raise
        return f"{candidate.name} cannot be compared in float32, for which memory does not suffice"


def current_probe(model: PreTrainedModel) -> Probe:
    """The probe of the model's present weights; log-likelihoods and generation have it in common."""
    versions = [parameter._version for parameter in model.parameters()]
    of_model = _probes.setdefault(model, {})
    if model.dtype not in of_model or of_model[model.dtype][0] != versions:
        of_model[model.dtype] = (versions, probe(model))
    return of_model[model.dtype][1]


def ways(model: PreTrainedModel) -> dict[str, str]:
    """How this model's log-likelihoods and texts were computed, for sidecars."""
    return dict(_taken.get(model, {}))
