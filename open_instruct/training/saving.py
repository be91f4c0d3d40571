"""Save a finished model: weights, tokenizer with chat template, generation settings."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerFast

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import ADAPTER, first_line, listed, tensor_names
from open_instruct.common.model_loading import load_model, require_finite
from open_instruct.data.encode import chat_template
from open_instruct.training.adapters import require_mergeable


def save_model(
    model: Any, weights: Mapping[str, Any], folder: Path, *, base: Path, merge: bool, best: Path | None
) -> None:
    """Save the finished model in `folder`.

    base: folder of the model that was trained; merge: fold the adapter into its weights; best: folder of the weights
    with the lowest validation loss, in place of `weights`.
    """
    if merge and hasattr(model, "peft_config"):
        # Inside the output, which is hidden until it is complete: a killed run leaves nothing elsewhere.
        with TemporaryDirectory(dir=folder) as temporary:
            adapter = best or Path(temporary)
            if best is None:
                model.save_pretrained(adapter, state_dict=dict(weights))
            merge_adapter(base, adapter).save_pretrained(folder)
    elif best is not None:
        shutil.copytree(best, folder, dirs_exist_ok=True)
    else:
        model.save_pretrained(folder, state_dict=dict(weights))


def merge_adapter(base: Path, adapter: Path) -> Any:
    """The model in `base` with the adapter folded into its weights.  Raises UserError where they do not match."""
    from peft import PeftModel, get_peft_model_state_dict

    stored = set(tensor_names(adapter / ADAPTER))
    try:
        model = PeftModel.from_pretrained(load_model(base), str(adapter))
        if differing := stored ^ get_peft_model_state_dict(model).keys():  # of which peft only warns
            raise UserError(f"the adapter {adapter} does not fit the model {base}: they differ on {listed(differing)}")
        require_mergeable(model)
        merged = model.merge_and_unload()
    except UserError:
        raise
    except Exception as error:  # peft and safetensors raise whatever a damaged file leads to
        raise UserError(f"the adapter {adapter} does not fit the model {base}: {first_line(error)}") from error
    require_finite(merged, adapter)
    return merged


def save_tokenizer_and_generation_config(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save what `generate` and `apply_chat_template` read."""
    tokenizer.chat_template = chat_template(tokenizer) or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    ).save_pretrained(folder)
