"""A model folder in transformers format: check it, identify its model, load it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_instruct.common import paths
from open_instruct.common.artifacts import read_sidecar, sidecar_path
from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import check_vocabulary, load_model, load_tokenizer
from open_instruct.study.variants import IDENTITY_FIELDS

# torch takes seconds to import, and only loading needs it.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def check_folder(folder: Path) -> None:
    """Raises UserError, with the fix, where `folder` has no model in transformers format."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected a model in transformers format. Download a model from the Hub with "
            "`hf download NAME --local-dir output/NAME`"
        )
    if (folder / "config.json").is_file():
        return
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format (config.yaml + model.pt), expected transformers format; "
            "convert it with `python open_instruct/olmo_hf/convert_olmo_to_tf.py`"
        )
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} has only an adapter; merge it into its base model: `python open_instruct/merge_lora.py`"
        )
    raise UserError(f"{folder}: no config.json; expected a folder made by save_pretrained")


def identify(folder: Path) -> dict[str, Any]:
    """Identity from the folder's sidecar; without one the folder's name is the model id, and the rest None."""
    if not sidecar_path(folder).is_file():
        return dict.fromkeys(IDENTITY_FIELDS) | {"model_id": paths.safe_name(folder.resolve().name)}
    identity = read_sidecar(folder)["identity"]
    if "model_id" not in identity:
        raise UserError(f"{sidecar_path(folder)} has no model_id; it is not the sidecar of a model")
    return dict.fromkeys(IDENTITY_FIELDS) | identity


def load(folder: Path, tokenizer_folder: Path, *, float16: bool) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Load the model, onto a GPU where there is one, and its tokenizer.

    Raises UserError where the weights do not match the config, or the tokenizer has more tokens than the model.
    """
    import torch

    model = load_model(folder, dtype="float16" if float16 else "float32", attn_implementation="sdpa")
    tokenizer = load_tokenizer(tokenizer_folder, option="--tokenizer_name_or_path (predict.py only)")
    check_vocabulary(model, tokenizer)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
