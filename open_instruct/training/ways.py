"""How the loss of a micro-batch is computed: the fastest way that gives the losses of the model's plain forward pass.

A faster way is compared with the plain pass on a probe (common/plain_pass.py) when the model is loaded; where it
differs or cannot run, the next one is. The last one computes each example by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import first_line
from open_instruct.common.plain_pass import (
    Probe,
    attention_window,
    exceeds,
    fault,
    logit_option,
    plain_logits,
    probe,
    remembers_lengths,
    rope_switch,
)
from open_instruct.data.encode import IGNORED, Encoded
from open_instruct.training.arguments import Args
from open_instruct.training.attention import WITHOUT_MASK
from open_instruct.training.batches import collate
from open_instruct.training.loss import MAX_LOGITS, Shortcut, TargetLoss, last_mlp

CONTEXT = (3, 2)
"""Tokens of a probe's sequences that are no targets."""


@dataclass(frozen=True)
class Way:
    shortcut: Shortcut
    attention: str
    """transformers' name of the model's attention."""
    packing: bool = False
    is_alone: bool = False
    """Whether each example is a micro-batch of its own."""
    reasons: tuple[str, ...] = ()
    """Why no faster one was taken."""

    @property
    def name(self) -> str:
        layout = "one example at a time" if self.is_alone else "packed" if self.packing else "padded"
        mask = ", attention without a mask" if self.attention == WITHOUT_MASK else ""
        of_targets = "own forward pass" if self.shortcut == "none" else f"{self.shortcut} at targets only"
        return f"{layout}{mask}, {of_targets}"

    def __str__(self) -> str:
        return f"{self.name} ({'; '.join(self.reasons)})" if self.reasons else self.name

    def applied_to(self, args: Args, *, vocab_size: int) -> Args:
        """`args` with the limits of micro-batches that this way needs; which examples form a step does not change."""
        args = replace(args, packing=self.packing)
        if self.is_alone:
            return replace(args, per_device_train_batch_size=1)
        if self.shortcut == "none":  # logits of all positions are in memory
            return replace(args, max_tokens_per_batch=min(args.max_tokens_per_batch, max(1, MAX_LOGITS // vocab_size)))
        return args


def choose_way(model: Any, *, packing: bool, prefers_no_mask: bool, longest: int) -> Way:
    """The first way that is right for this model, which it is set to.

    packing, prefers_no_mask: try these first; longest: tokens of an example.
    Raises UserError for a model that is no causal language model, or that examples of this length are wrong for.
    """
    own, reasons = model.config._attn_implementation, []
    switch, window = rope_switch(model.config), attention_window(model.config)
    of_logits = logit_option(model.config)
    if exceeds(longest, switch) and remembers_lengths(model.config):
        raise UserError(
            f"{type(model).__name__}: an example has {longest} tokens, and the losses of examples beyond {switch} "
            f"depend on those before them (dynamic rotary embeddings); cut examples by --max_seq_length {switch}"
        )
    if not model._can_set_attn_implementation():  # others do the same in training, which would cost them a pass
        require_training_mode(model)
    model.eval()
    found = probe(model)
    shortcuts = get_args(Shortcut)[last_mlp(model) is None :]
    for way in all_ways(own, shortcuts, packing=packing, prefers_no_mask=prefers_no_mask):
        if not way.is_alone and exceeds(longest, switch):
            reason = f"rotary embeddings change beyond {switch} tokens, an example has {longest}"
        elif way.attention == WITHOUT_MASK and exceeds(longest, window):
            reason = f"an example of {longest} tokens exceeds the attention window of {window}, which needs a mask"
        elif way.shortcut != "none" and of_logits:
            reason = of_logits
        else:
            if model.config._attn_implementation != way.attention:  # parts for sound do not take every name
                model.set_attn_implementation(way.attention)
            reason = fault(way.name, None if way.is_alone else partial(deviation, model, way), found)
        if reason is None:
            return replace(way, reasons=tuple(reasons))
        if reason not in reasons:
            reasons.append(reason)
    raise AssertionError("the plain forward pass is right by definition")


@torch.no_grad()
def require_training_mode(model: Any) -> None:
    """Raise UserError where the forward pass in training fails: some take other lengths then."""
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):  # its dropout changes no number of the run
            plain_logits(model, torch.zeros(1, sum(CONTEXT), dtype=torch.long, device=model.device))
    except Exception as error:  # a model raises whatever its code comes across
        raise UserError(
            f"{type(model).__name__}: its forward pass in training fails ({first_line(error)}); choose another model"
        ) from error


def unchecked_way(model: Any, *, packing: bool) -> Way:
    """The fastest way, for weights that are partitioned before they can be compared."""
    if packing:
        model.set_attn_implementation(WITHOUT_MASK)
    reason = "not compared with the plain forward pass, for the weights are partitioned when they are loaded"
    return Way("head and last MLP", model.config._attn_implementation, packing=packing, reasons=(reason,))


def all_ways(own: str, shortcuts: Sequence[Shortcut], *, packing: bool, prefers_no_mask: bool) -> Iterator[Way]:
    """The fastest first.  own: transformers' name of the model's own attention"""
    layouts = [(True, WITHOUT_MASK)] if packing else []
    layouts += [(False, WITHOUT_MASK)] if prefers_no_mask else []
    for is_packed, attention in [*layouts, (False, own)]:
        for shortcut in shortcuts:
            yield Way(shortcut, attention, packing=is_packed)
    yield Way("none", own, is_alone=True)


@torch.no_grad()
def deviation(model: Any, way: Way, found: Probe) -> float:
    """Largest difference from the probe, in nats, of a target's loss in a batch of both sequences."""
    examples = [
        Encoded(ids, [IGNORED] * num_context + ids[num_context:])
        for ids, num_context in zip(found.sequences, CONTEXT, strict=True)
    ]
    batch = collate(examples, packing=way.packing).to(model.device)
    log_probs = TargetLoss(model, way.shortcut).target_logits(batch).log_softmax(-1)
    of_targets = log_probs.gather(-1, batch.targets[:, None])[:, 0]
    parts = of_targets.split([example.num_targets for example in examples])
    return max(found.deviation(part, sequence=i, first=CONTEXT[i]) for i, part in enumerate(parts))
