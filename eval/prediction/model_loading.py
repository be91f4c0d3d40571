"""A model folder in transformers format: find it, check it, load it."""

from pathlib import Path
from typing import TYPE_CHECKING

from open_instruct.common.model_files import require_loadable, require_model
from open_instruct.common.model_loading import (
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    model_folder,
    require_no_revision,
)
from open_instruct.common.special_tokens import AddBosToken
from open_instruct.study.settings import Dtype

# torch takes seconds to import, and only loading needs it.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def find_folder(name: str, revision: str | None = None) -> Path:
    """The model's folder, downloaded where `name` is one of the Hub.

    Raises UserError where there is no model in transformers format.
    """
    require_no_revision(name, revision)
    folder = model_folder(name, revision)
    require_model(folder)
    return folder


def load(
    folder: Path, tokenizer_folder: Path, *, dtype: Dtype, add_bos_token: AddBosToken | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerFast"]:
    """Load the model, onto a GPU where there is one, and its tokenizer.  add_bos_token: as of `load_tokenizer`.

    Raises UserError where the weights do not match the config, or the tokenizer is not the model's.
    """
    require_loadable(folder, tokenizer_folder, option="--tokenizer_name_or_path")
    import torch

    config = load_config(folder)
    tokenizer = load_tokenizer(tokenizer_folder, option="--tokenizer_name_or_path", add_bos_token=add_bos_token)
    model = load_model(folder, config=config, dtype=dtype)
    check_vocabulary(model, tokenizer)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
