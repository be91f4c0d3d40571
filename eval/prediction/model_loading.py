"""A model folder in transformers format: find it, check it, load it."""

from pathlib import Path
from typing import TYPE_CHECKING

from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import check_vocabulary, load_model, load_tokenizer, model_folder

# torch takes seconds to import, and only loading needs it.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def find_folder(name: str, revision: str | None = None) -> Path:
    """The model's folder, downloaded where `name` is one of the Hub.

    Raises UserError where there is no model in transformers format.
    """
    if not Path(name).is_dir():
        looks_like_path = Path(name).is_absolute() or name.startswith((".", "output/")) or name.count("/") not in (1, 2)
        if looks_like_path:
            raise UserError(f"{name}: no such folder; expected a model in transformers format, or a name on the Hub")
    folder = model_folder(name, revision)
    check_folder(folder)
    return folder


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


def load(folder: Path, tokenizer_folder: Path, *, float16: bool) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Load the model, onto a GPU where there is one, and its tokenizer.

    Raises UserError where the weights do not match the config, or the tokenizer has more tokens than the model.
    """
    import torch

    model = load_model(folder, dtype="float16" if float16 else "float32", attn_implementation="sdpa")
    tokenizer = load_tokenizer(tokenizer_folder, option="--tokenizer_name_or_path (predict.py only)")
    check_vocabulary(model, tokenizer)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
