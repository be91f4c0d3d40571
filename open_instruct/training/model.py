"""The model that is trained, from a folder or the Hub, checked; and its low-rank adapters."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.import_utils import is_flash_attn_2_available

from open_instruct.common.errors import UserError
from open_instruct.data.encode import eos_id
from open_instruct.training import attention as attention

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What of a Hub repository is downloaded: weights as safetensors, never pickles or code."""


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder `name`, or the folder to which the Hub's model `name` is downloaded.

    name: on the Hub `owner/repository`, or `owner/repository/folder` where one repository holds many models.
    Raises UserError where it is neither, or a folder in OLMo's own format.
    """
    folder = Path(name)
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format; convert it first: "
            f"python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --output_dir …"
        )
    if folder.is_dir():
        return folder
    parts = name.split("/")
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    wanted = [f"{inside}/{pattern}" if inside else pattern for pattern in HUB_FILES]
    try:
        snapshot = snapshot_download(repository, revision=revision, allow_patterns=wanted)
        found = Path(snapshot) / inside
        if not found.is_dir():
            raise UserError(f"{repository} holds no folder {inside} with a model; name one that it lists")
        return found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} is neither a model folder nor a model of the Hub: {reason}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Raises UserError where there is none, or it names no EOS."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer ({str(error).splitlines()[0]}); give --tokenizer_name") from error
    eos_id(tokenizer)
    return tokenizer


def load_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    config_folder: Path | None = None,
    packing: bool = False,
    half_precision: bool = False,
) -> Any:
    """The model in float32.

    Raises UserError where the weights are not those of its config, or the tokenizer has more tokens than the model.
    """
    model = load_weights(folder, config_folder=config_folder, packing=packing, half_precision=half_precision)
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens, {folder} embeds {num_embeddings}; use its own")
    return model


def load_weights(folder: Path, *, config_folder: Path | None = None, packing: bool, half_precision: bool) -> Any:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(config_folder or folder),
            dtype=torch.float32,
            attn_implementation=attention_for(packing=packing, half_precision=half_precision),
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} holds no model that can be loaded: {str(error).strip().splitlines()[0]}") from error
    model, info = loaded
    wrong = {kind: sorted(info[kind])[:3] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise UserError(f"{folder}: the weights are not those of the config: {wrong}; make the folder again")
    return model


def attention_for(*, packing: bool, half_precision: bool) -> str:
    """Flash attention where it is installed and can run; it tells packed examples apart by their positions."""
    if half_precision and torch.cuda.is_available() and is_flash_attn_2_available():
        return "flash_attention_2"
    if packing:
        return "packed"
    return "padded" if half_precision and not torch.cuda.is_available() else "sdpa"


def add_adapters(model: Any, *, rank: int, alpha: int, dropout: float) -> Any:
    """Low-rank adapters on all linear layers but the head; only they are trained."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)
