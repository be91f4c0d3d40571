"""A model folder in transformers format: find it, check it, load it; the longest input that it takes."""

from pathlib import Path
from typing import TYPE_CHECKING

from open_instruct.common.errors import UserError
from open_instruct.common.model_files import require_loadable, require_model
from open_instruct.common.model_loading import (
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    max_positions,
    model_folder,
    require_no_revision,
)
from open_instruct.common.special_tokens import AddBosToken
from open_instruct.study.settings import Dtype

LONGEST_CONTEXT = 2048
"""Tokens; the maximum of the reference pipeline."""
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


def longest_input(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", requested: int | None) -> int:
    """Maximum number of tokens of a context and its continuation.  Raises UserError if more are `requested`."""
    positions = max_positions(model.config) or LONGEST_CONTEXT
    if isinstance(tokenizer.model_max_length, bool) or tokenizer.model_max_length < 1:
        raise UserError(
            f"{tokenizer.name_or_path}/tokenizer_config.json: model_max_length is {tokenizer.model_max_length}; "
            "expected a number of tokens, or no such entry"
        )
    most = min(tokenizer.model_max_length, positions, LONGEST_CONTEXT)
    if requested is not None and not 1 <= requested <= most:
        raise UserError(f"--max_seq_length is {requested}; expected 1 to {most}, the limit of model and tokenizer")
    return requested or most
