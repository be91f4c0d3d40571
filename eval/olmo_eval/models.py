"""A model folder in transformers format, checked and loaded for scoring."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from open_instruct.records import UserError, read_json, sidecar_path

LONGEST_CONTEXT = 2048
"""Tokens; the reference pipeline never gives a model more."""
IDENTITY = ("model_id", "family", "step", "tokens", "train_set", "epochs", "lr", "seed", "adapter")


def check_folder(path: Path) -> None:
    """Raises UserError where `path` holds no model and tokenizer in transformers format."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a model in transformers format, with its tokenizer")
    if (path / "model.pt").is_file() and not (path / "config.json").is_file():
        raise UserError(
            f"{path} is in OLMo's own format (config.yaml + model.pt), expected transformers format; convert it with "
            "`python open_instruct/olmo_hf/convert_olmo_to_tf.py --help`"
        )
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (path / name).is_file()]
    if missing:
        raise UserError(f"{path}: no {' and no '.join(missing)}; expected a folder made by save_pretrained")


def model_identity(path: Path) -> dict[str, Any]:
    """What the folder's sidecar says of the model; without one, the folder's name and nothing else is known."""
    recorded = read_json(sidecar_path(path)).get("identity", {}) if sidecar_path(path).is_file() else {}
    return dict.fromkeys(IDENTITY) | {"model_id": path.resolve().name} | recorded


def load_model(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model in fp32, on a GPU where there is one, and its tokenizer.

    Raises UserError where the folder's weights are not the model's.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, output_loading_info=True
    )
    model, info = loaded
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        raise UserError(f"{path}: the weights are not those of its config.json: {wrong}; make the folder again")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, wanted: int | None) -> int:
    """Tokens a context and its continuation may have together.  Raises UserError where more are `wanted` than fit."""
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST_CONTEXT
    most = min(tokenizer.model_max_length, positions, LONGEST_CONTEXT)
    if wanted is not None and not 1 <= wanted <= most:
        raise UserError(f"--model-max-length is {wanted}; expected 1 to {most}, which this model and tokenizer take")
    return wanted or most
