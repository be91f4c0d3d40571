"""What is left of a finished run: weights, tokenizer with chat template, generation settings."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from open_instruct.common.errors import UserError
from open_instruct.data.encode import CHAT_TEMPLATE

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def save_trained(model: Any, weights: Mapping[str, Any], folder: Path) -> None:
    """What was trained: a whole model, or the adapter of a PeftModel.  weights: its state, whole."""
    model.save_pretrained(folder, state_dict=dict(weights))


def save_model(
    model: Any, weights: Mapping[str, Any], folder: Path, *, base: Path, merge: bool, best: Path | None
) -> None:
    """The finished model into `folder`.

    base: folder of the model that was trained.  merge: fold the adapter in, so that `folder` holds an ordinary model.
    best: folder that holds what `save_trained` saved when validation was best, in place of `weights`.
    """
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        trained = best or Path(temporary)
        if best is None:
            save_trained(model, weights, trained)
        if merge and hasattr(model, "peft_config"):
            merge_adapter(base, trained).save_pretrained(folder)
        else:
            shutil.copytree(trained, folder, dirs_exist_ok=True)


def merge_adapter(base: Path, adapter: Path) -> Any:
    """The model at `base` with the adapter folded into its weights.  Raises UserError where they do not fit."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the adapter {adapter} does not fit the model {base}: {reason}") from error
    return adapted.merge_and_unload()


def save_surroundings(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Tokenizer, chat template and generation settings: what `generate` and `apply_chat_template` read."""
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    ).save_pretrained(folder)


def remove_weights(folder: Path) -> None:
    for pattern in WEIGHTS:
        for path in folder.glob(pattern):
            path.unlink()
