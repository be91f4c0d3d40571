"""Texts written by vLLM, on a GPU, in the place of generation.py: the same prompts, and the same kind of answer.

vLLM is not among the requirements: it pins its own torch. `pip install vllm` puts it into an environment with CUDA.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eval.engine.generation import Generated
from open_instruct.common.errors import UserError

SHARE_OF_MEMORY = 0.6
"""Of the GPU's memory, for vLLM; the rest is for the model that computes likelihoods."""


def load(folder: Path, tokenizer: Path, model: PreTrainedModel) -> Callable[..., list[Generated]]:
    """vLLM with the weights of `folder`, in the precision of `model`.  Raises UserError where vLLM is not installed."""
    try:
        from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "vLLM is not installed; `pip install vllm` where there is a GPU, or leave out --use_vllm"
        ) from error
    engine = LLM(
        model=str(folder),
        tokenizer=str(tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        max_model_len=model.config.max_position_embeddings,
        gpu_memory_utilization=SHARE_OF_MEMORY,
        enable_prefix_caching=True,
        generation_config="vllm",  # or the folder's sampling settings would be taken for defaults
    )

    def write(
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
        """As `generation.generate`; what is sampled depends on the seed and the prompt's index too."""
        common: dict[str, Any] = {"max_tokens": max_new_tokens, "detokenize": False}
        common |= {"ignore_eos": True, "stop_token_ids": sorted({eos_id, *stop_ids})}
        common |= {"temperature": temperature, "top_p": top_p} if do_sample else {"temperature": 0.0}
        outputs = engine.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            [SamplingParams(**common, seed=seed + index) for index in range(len(prompts))],
            use_tqdm=False,
        )
        return [as_generated(output.outputs[0], eos_id) for output in outputs]

    return write


def as_generated(completion: Any, eos_id: int) -> Generated:
    ids = list(completion.token_ids)
    return Generated(ids[:-1] if ids[-1:] == [eos_id] else ids, finished=completion.finish_reason == "stop")
