"""The plain forward pass of a model, which every faster computation is compared with before it is used.

The comparison is on two short sequences that begin alike and then differ in tokens and length (`Probe`). It says
nothing about sequences that are longer than the model's attention window, nor about rotary embeddings that change with
the length of a batch: `attention_window` and `rope_switch` give these lengths.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import first_line

TOLERANCES = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Nats by which two log-probabilities of one token may differ at most: noise of a forward pass in that precision, where
logits are some tens. Texts that see each other differ by more, as soon as a model has learned from its context."""
LEAST, NOISE = 6e-6, 10
"""In float32 the tolerance is NOISE times what a rounding of the embeddings changes, and LEAST at least: of a model
that has learned nothing, texts that see each other differ by 1e-5."""
WINDOW = re.compile(
    r".*window(_size|_len)?|attention_chunk_size|.*attn_chunk_length|local_attention|index_topk|(index_)?block_size"
    "|indexer_budget"
)
"""Fields of a config that bound how many tokens a token attends to."""
LOGIT_OPTIONS = {
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")),
    **dict.fromkeys(("logit_scale", "logits_scaling", "lm_head_multiplier", "logits_mup_width_multiplier"), 1.0),
}
"""Fields by which a model transforms the logits of its head, and the value that changes nothing. A cap changes the
small logits of a probe by less than those of a text."""
CHANGING_ROPE = ("dynamic", "longrope")
"""Kinds of rotary embeddings whose frequencies depend on the longest sequence of a batch."""
SHARED, OWN = 5, (4, 3)
"""Tokens of a probe's two sequences: the same at first, then others. Short convolutions reach over 4 tokens."""


@dataclass(frozen=True)
class Probe:
    """Two token sequences, and the log-probability of each token but the first in the model's plain forward pass."""

    sequences: tuple[list[int], list[int]]
    log_probs: tuple[Tensor, Tensor]
    """(tokens - 1,) each, in float32 on the CPU."""
    model: ReferenceType[Any]
    """Weak: probes are kept by model, for as long as there is one."""

    def is_noise(self, difference: float) -> bool:
        """Whether two right ways may differ by this many nats. Few do by so much that noise has to be measured."""
        model = self.model()
        if model is None or model.dtype != torch.float32 or difference > TOLERANCES[torch.float32]:
            return model is not None and difference <= TOLERANCES[model.dtype]
        return difference <= LEAST or difference <= NOISE * self.noise

    @cached_property
    def noise(self) -> float:
        """Largest change of a log-probability, in nats, where embeddings are changed as by a rounding in float32."""
        return noise(self.model(), self.sequences[0])

    def deviation(self, found: Tensor, *, sequence: int, first: int) -> float:
        """Largest difference in nats between `found` (tokens,) and the log-probabilities of the tokens from `first`."""
        expected = self.log_probs[sequence][first - 1 :][: len(found)]
        difference = (found.detach().float().cpu() - expected).abs().max().item()
        return difference if difference == difference else float("inf")  # NaN is a difference


Deviation = Callable[[Probe], float]
"""Computes a probe in some way.  -> largest difference of a log-probability from the plain forward pass, in nats"""


def fault(name: str, deviation: Deviation | None, found: Probe) -> str | None:
    """Why a way of this name is not right, or None.  deviation: None for the plain forward pass itself"""
    try:
        difference = deviation(found) if deviation else 0.0
    except Exception as error:  # a model raises whatever its code comes across
        return f"{name} cannot run: {first_line(error)}"
    return None if found.is_noise(difference) else f"{name} differs by {difference:.3g} nats"


def plain_logits(model: Any, ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Logits of the model's own forward pass.  (batch, seq) -> (batch, seq, vocabulary)"""
    if attention_mask is not None:
        options["attention_mask"] = attention_mask
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    return model(input_ids=ids, **options).logits


@torch.no_grad()
def probe(model: Any) -> Probe:
    """The probe of a model in evaluation mode.

    Raises UserError for a model whose plain forward pass fails, gives logits that are not finite, or lets a token
    see later ones, so that its log-probabilities are not those of a language model.
    """
    sequences = probe_sequences(model.get_input_embeddings().num_embeddings)
    name = type(model).__name__
    try:
        log_probs = [plain_log_probs(model, ids) for ids in sequences]
    except Exception as error:  # a model raises whatever its code comes across
        raise UserError(
            f"{name}: its forward pass of a text fails ({first_line(error)}); choose another model"
        ) from error
    if not all(each.isfinite().all() for each in log_probs):
        raise UserError("the model gives logits that are not finite; its weights are broken, or overflow in float16")
    found = Probe(sequences, (log_probs[0], log_probs[1]), ref(model))
    difference = found.deviation(log_probs[1][: SHARED - 1], sequence=0, first=1)
    if not found.is_noise(difference):
        raise UserError(
            f"{name}: the log-probability of a token changes by {difference:.3g} nats with the tokens after it; "
            "expected a model that predicts each token from those before it, so choose another one"
        )
    return found


@torch.no_grad()
def noise(model: Any, ids: Sequence[int]) -> float:
    generator = torch.Generator().manual_seed(0)

    def rounded(_: Any, __: Any, output: Tensor) -> Tensor:
        change = torch.randn(output.shape, generator=generator) * torch.finfo(torch.float32).eps
        return output * (1 + change.to(output.device))

    exact = plain_log_probs(model, ids)  # not that of the probe: the model may have another attention by now
    hook = model.get_input_embeddings().register_forward_hook(rounded)
    try:
        return (plain_log_probs(model, ids) - exact).abs().max().item()
    finally:
        hook.remove()


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Inside the block, weights and buffers in half precision are float32, with the same values.

    What a way does wrong can be smaller than the noise of half precision, and still change every number.
    """
    tensors = [*model.parameters(), *model.buffers()]
    own = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype in (torch.float16, torch.bfloat16)]
    try:
        convert((tensor, torch.float32) for tensor, _ in own)
        yield
    finally:
        convert(own)


def convert(tensors: Iterable[tuple[Tensor, torch.dtype]]) -> None:
    with torch.inference_mode(False), torch.no_grad():  # no inference tensors: they cannot be trained later
        for tensor, dtype in tensors:
            tensor.data = tensor.data.to(dtype)


def probe_sequences(vocab_size: int) -> tuple[list[int], list[int]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (SHARED + sum(OWN),), generator=generator).tolist()
    return ids[: SHARED + OWN[0]], ids[:SHARED] + ids[SHARED + OWN[0] :]


def plain_log_probs(model: Any, ids: Sequence[int]) -> Tensor:
    """Log-probability of each token but the first, from the text alone.  -> (tokens - 1,), float32 on the CPU"""
    tokens = torch.tensor(ids, device=model.device)
    log_probs = plain_logits(model, tokens[None])[0, :-1].float().log_softmax(-1)
    return log_probs.gather(-1, tokens[1:, None])[:, 0].cpu()


def attention_window(config: Any) -> int | None:
    """Smallest number of tokens that some layer's attention is bound to, or None."""
    found = config.get_text_config().to_dict().items()
    windows = [v for k, v in found if WINDOW.fullmatch(k) and isinstance(v, int) and not isinstance(v, bool) and v > 0]
    return min(windows, default=None)


def rope_switch(config: Any) -> int | None:
    """Length of a batch from which on the model's rotary embeddings change for all its sequences, or None."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    parts = [part for part in rope_parameters(config) if part.get("rope_type") in CHANGING_ROPE]
    lengths = [part.get("original_max_position_embeddings") or positions for part in parts]
    return min((length for length in lengths if length), default=None)


def remembers_lengths(config: Any) -> bool:
    """Whether rotary embeddings depend on the longest sequence so far: a text alone has no numbers of its own then."""
    return any(part.get("rope_type") == "dynamic" for part in rope_parameters(config))


def rope_parameters(config: Any) -> list[dict[str, Any]]:
    """Parameters of the rotary embeddings, of some models by kind of layer."""
    found: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return [found, *(part for part in found.values() if isinstance(part, dict))]


def logit_option(config: Any) -> str | None:
    """What transforms the logits of the model's head: `final_logit_softcapping is 30.0`; None where nothing does."""
    values = ((name, getattr(config.get_text_config(), name, None), neutral) for name, neutral in LOGIT_OPTIONS.items())
    return next((f"{name} is {value}" for name, value, neutral in values if value not in (None, neutral)), None)


def exceeds(length: int, limit: int | None) -> bool:
    return limit is not None and length > limit
