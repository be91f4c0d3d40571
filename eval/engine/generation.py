"""Text generation, greedy or sampled.

Where the model's plain forward pass says the same (ways.py), by continuous batching with prefix sharing and a key-value
cache of its own (continuous_batching.py), otherwise by transformers' generate (plain_generation.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel

from eval.engine.continuous_batching import generate_in_rows, shared_prefix
from eval.engine.lm_head import full_logits, greedy_tokens, unless_nan
from eval.engine.plain_generation import FromLogits, generate_by_transformers
from eval.engine.sampling import sample, uniform_draws
from eval.engine.ways import GENERATE, OWN_CACHE, WITHOUT_CACHE, Candidate, choose
from open_instruct.common.devices import to_device
from open_instruct.common.errors import UserError
from open_instruct.common.plain_pass import Probe

MAX_BATCH_TOKENS = {"cpu": 2**15, "cuda": 2**17}
"""Tokens of all sequences that are generated at once."""
PROBED_TOKENS = 2
"""New tokens of each sequence of a probe: the first follows the prompt, the second is decoded."""
UNEQUAL, EQUAL = (7, 6), (6, 6)
"""Tokens of the prompts of a probe. Those of different lengths would not meet in a batch of transformers' generate."""


@dataclass(frozen=True)
class Generated:
    ids: list[int]
    """Generated token ids: without EOS, with a stop token."""
    finished: bool
    """Whether EOS or a stop token ended the sequence, rather than `max_new_tokens`."""


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    stop_ids: Sequence[int] = (),
    max_batch_tokens: int | None = None,
    batch_size: int | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    cuda_graph: bool = True,
) -> list[Generated]:
    """Generate a continuation of each prompt, in the order of `prompts`.

    At most `batch_size` sequences are generated in parallel, with at most `max_batch_tokens` tokens in total (default:
    MAX_BATCH_TOKENS; new ones included, a shared prefix not), and fewer where memory runs out. This does not change the
    output, beyond float noise: a sampled token depends on the seed, the prompt's index and the step only. Prompts are
    not truncated here.

    Raises UserError for an empty prompt, NaN logits, and a model that is no causal language model.
    """
    if not all(prompts):
        raise UserError(f"prompt {prompts.index([])} is empty; give an empty prompt as [EOS]")
    if not prompts:
        return []
    draws = uniform_draws(len(prompts), seed=seed, steps=max_new_tokens).to(model.device) if do_sample else None

    def from_logits(indices: list[int], steps: list[int], logits: torch.Tensor) -> torch.Tensor:
        if draws is None:
            return unless_nan(logits.argmax(-1), logits.amax(-1))
        draw = draws[tuple(to_device(np.array([indices, steps]), model.device))]
        return sample(logits, draw, temperature=temperature, top_p=top_p)

    def from_hidden(indices: list[int], steps: list[int], hidden: torch.Tensor) -> torch.Tensor:
        if draws is None:
            return greedy_tokens(model, hidden)
        return from_logits(indices, steps, full_logits(model, hidden))

    end_ids = {eos_id, *stop_ids}
    limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    limits |= {"max_batch_tokens": max_batch_tokens or MAX_BATCH_TOKENS[model.device.type]}
    longest = max(map(len, prompts)) + max_new_tokens
    way = generation_way(model, longest=longest, shares_prefix=bool(shared_prefix(prompts)))
    if way == OWN_CACHE:
        found = generate_in_rows(model, prompts, from_hidden, end_ids=end_ids, cuda_graph=cuda_graph, **limits)
    else:
        use_cache = way == GENERATE
        found = generate_by_transformers(model, prompts, from_logits, end_ids=end_ids, use_cache=use_cache, **limits)
    return [Generated(ids[:-1] if ids[-1] == eos_id else ids, ids[-1] in end_ids) for ids in found]


def generation_way(model: PreTrainedModel, *, longest: int, shares_prefix: bool) -> str:
    """The fastest right way for sequences of up to `longest` tokens (ways.py)."""
    limits = {"end_ids": set(), "max_new_tokens": PROBED_TOKENS, "max_batch_tokens": 2**10, "batch_size": None}

    def in_rows(prompts: Sequence[list[int]], forced: FromLogits) -> None:
        def from_hidden(indices: list[int], steps: list[int], hidden: torch.Tensor) -> torch.Tensor:
            return forced(indices, steps, full_logits(model, hidden))

        shared = {"min_shared_prefix": 1 if shares_prefix else longest}
        generate_in_rows(model, prompts, from_hidden, cuda_graph=False, **shared, **limits)

    def by_transformers(prompts: Sequence[list[int]], forced: FromLogits, *, use_cache: bool) -> None:
        generate_by_transformers(model, prompts, forced, use_cache=use_cache, **limits)

    candidates = [
        Candidate(OWN_CACHE, partial(deviation, UNEQUAL, in_rows), is_own=True),
        Candidate(GENERATE, partial(deviation, EQUAL, partial(by_transformers, use_cache=True))),
        Candidate(WITHOUT_CACHE, partial(deviation, EQUAL, partial(by_transformers, use_cache=False)), is_plain=True),
    ]
    variant = "shared prefix" if shares_prefix else ""
    return choose(model, "generation", candidates, longest=longest, variant=variant)


def deviation(lengths: Sequence[int], run: Callable[[Sequence[list[int]], FromLogits], None], found: Probe) -> float:
    """Largest difference from the probe, in nats, when the tokens of its sequences are generated.

    lengths: of the prompts, the first tokens of the sequences; run: generates PROBED_TOKENS after each.
    """
    prompts = [ids[:length] for ids, length in zip(found.sequences, lengths, strict=True)]
    differences = []

    def forced(indices: list[int], steps: list[int], logits: torch.Tensor) -> torch.Tensor:
        tokens = [
            found.sequences[index][len(prompts[index]) + step] for index, step in zip(indices, steps, strict=True)
        ]
        chosen = torch.tensor(tokens, device=logits.device)
        log_probs = logits.float().log_softmax(-1).gather(-1, chosen[:, None])
        for index, step, log_prob in zip(indices, steps, log_probs, strict=True):
            differences.append(found.deviation(log_prob, sequence=index, first=len(prompts[index]) + step))
        return chosen

    run(prompts, forced)
    return max(differences)
