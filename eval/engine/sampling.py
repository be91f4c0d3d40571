"""Sampled tokens that depend on the seed, the prompt's index and the step only."""

import torch

from eval.engine.lm_head import unless_nan


def uniform_draws(num_prompts: int, *, seed: int, steps: int) -> torch.Tensor:
    """Uniform random numbers from [0, 1) for sampling.  -> (prompts, steps)"""
    # One generator for each prompt, so that its output does not depend on the rest of the batch.
    draws = [torch.rand(steps, generator=torch.Generator().manual_seed(seed + i)) for i in range(num_prompts)]
    return torch.stack(draws) if draws else torch.empty(0, steps)


def sample(logits: torch.Tensor, draws: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    """Sample by inverting the cumulative distribution.  (rows, vocabulary), (rows,) in [0, 1) -> (rows,) tokens

    Only the fewest most likely tokens whose probabilities add up to `top_p` can be sampled; -1 where logits are NaN.
    """
    probabilities, ordered = (logits / temperature).softmax(-1).sort(dim=-1, descending=True)
    below = probabilities.cumsum(-1) - probabilities  # (rows, vocabulary): probability of all more likely tokens
    in_nucleus = below < top_p
    total = (probabilities * in_nucleus).sum(-1, keepdim=True)
    last_at_or_below = (in_nucleus & (below <= draws[:, None] * total)).sum(-1, keepdim=True) - 1
    return unless_nan(ordered.gather(-1, last_at_or_below.clamp(min=0))[:, 0], probabilities[:, 0])
