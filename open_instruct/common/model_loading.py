"""Models and tokenizers in transformers format: find the folder, load, check.

transformers takes seconds to import, so each function imports it itself.
"""

from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError

HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""Files that are downloaded from a Hub repository: weights as safetensors, no pickles, no code."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def model_folder(name: str, revision: str | None = None, *, files: tuple[str, ...] = HUB_FILES) -> Path:
    """The folder `name`, or the local copy of the Hub's model `name`, downloaded where needed.

    name: a path, or `owner/repository`, or `owner/repository/folder` for one of the models in a repository.
    Raises UserError where there is no such model, or the folder is in OLMo's own format.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

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
    patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in files]
    try:
        found = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)) / inside
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} is neither a model folder nor a model of the Hub: {first_line(error)}") from error
    if not found.is_dir():
        raise UserError(f"{repository} has no folder {inside} with a model; give one that it lists")
    return found


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    config: Any | None = None,
    device_map: str | None = None,
) -> Any:
    """A causal language model.

    config: in place of the folder's own; device_map: `meta` checks names and shapes without reading weights.
    Raises UserError where it cannot be loaded, or the weights are not exactly those of the config.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: no model that can be loaded ({first_line(error)})") from error
    model, info = loaded
    wrong = {kind: sorted(map(str, keys))[:3] for kind, keys in info.items() if keys and kind.endswith("_keys")}
    if wrong:
        raise UserError(f"{folder}: the weights are not those of its config.json: {wrong}; make the folder again")
    return model


def load_tokenizer(folder: Path, *, option: str) -> Any:
    """Raises UserError where there is no tokenizer that can be loaded.

    option: of the command line, which names another folder.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder}: no tokenizer.json; save the tokenizer there, or give its folder by {option}")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: its tokenizer cannot be loaded ({first_line(error)}); give another folder by {option}"
        ) from error


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises UserError where the tokenizer has more tokens than the model has embeddings."""
    num_tokens, num_embeddings = len(tokenizer), model.get_input_embeddings().num_embeddings
    if num_tokens > num_embeddings:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has {num_tokens} tokens, the model {model.name_or_path} "
            f"{num_embeddings} embeddings; use the model's own tokenizer"
        )


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
