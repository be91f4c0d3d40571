"""Text generation by vLLM on a GPU: an alternative to generation.py with the same prompts and results.

vLLM is not among the dependencies: it pins its own torch. `pip install vllm` installs it into an environment with CUDA.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eval.engine.generation import Generated
from open_instruct.common.model_loading import max_positions

GPU_MEMORY_UTILIZATION = 0.6
"""Fraction of the GPU's memory for vLLM; the rest is for the model that computes log-likelihoods."""


def load_generator(folder: Path, tokenizer: Path, model: PreTrainedModel) -> Callable[..., list[Generated]]:
    """`generate` of vLLM with the weights of `folder`, in the precision of `model`."""
    from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

    engine = LLM(
        model=str(folder),
        tokenizer=str(tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        max_model_len=max_positions(model.config),
        gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
        enable_prefix_caching=True,
        generation_config="vllm",  # otherwise the folder's sampling settings would become defaults
    )

    def generate(
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        eos_id: int,
        stop_ids: Sequence[int],
        do_sample: bool,
        temperature: float,
        top_p: float,
        seed: int,
    ) -> list[Generated]:
        """Generate as `generation.generate` does; here too, a sample depends on the seed and the prompt's index."""
        common: dict[str, Any] = {"max_tokens": max_new_tokens, "detokenize": False}
        common |= {"ignore_eos": True, "stop_token_ids": sorted({eos_id, *stop_ids})}
        common |= {"temperature": temperature, "top_p": top_p} if do_sample else {"temperature": 0.0}
        outputs = engine.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            [SamplingParams(**common, seed=seed + index) for index in range(len(prompts))],
            use_tqdm=False,
        )
        return [as_generated(output.outputs[0], eos_id) for output in outputs]

    return generate


def as_generated(completion: Any, eos_id: int) -> Generated:
    ids = list(completion.token_ids)
    return Generated(ids[:-1] if ids[-1:] == [eos_id] else ids, finished=completion.finish_reason == "stop")
