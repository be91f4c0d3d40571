"""Models and tokenizers in transformers format: find the folder, load, check.

transformers takes seconds to import, so each function imports it itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
"""Files that are downloaded from a Hub repository: weights as safetensors, no pickles, no code."""
COPY_AGAIN = "copy or download it again"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SPARE_EMBEDDINGS, SPARE_SHARE = 128, 0.05
"""Embeddings of no token that a model may have, the larger of both: they are padded to multiples of up to 128 for each
of several GPUs. OLMo-1B has 24 of 50,304, Pythia-12B 411 of 50,688, Phi-2 905 of 51,200."""

POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "model_max_length",
    "context_length",
)
"""Names in a config.json of the number of tokens that a model was made for; the first one that is there counts."""
FIRST_POSITION_AFTER_PAD = (
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose first token has the position `pad_token_id + 1`: they take that many tokens less."""


def max_positions(config: Any) -> int | None:
    """Number of tokens that a model takes; None where its architecture sets no limit (mamba, bloom)."""
    text_config = config.get_text_config(decoder=True)
    for name in POSITIONS:
        positions = getattr(text_config, name, None)
        if isinstance(positions, int) and positions > 0:
            reserved = text_config.pad_token_id + 1 if text_config.model_type in FIRST_POSITION_AFTER_PAD else 0
            return positions - reserved
    return None


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
            f"python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --step …"
        )
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "output/")) or name.count("/") > 2:
        raise UserError(f"{name}: no such folder; expected a model in transformers format, or a name on the Hub")
    parts = name.split("/")
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in files]
    try:
        found = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)) / inside
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name}: no such folder, and no such model of the Hub: {first_line(error)}") from error
    if not found.is_dir():
        raise UserError(f"{repository} has no folder {inside} with a model; give one that it lists")
    return found


def require_no_revision(folder: str, revision: str | None) -> None:
    """Raises UserError for a revision of a folder, which has none. `main`, the Hub's default, is accepted."""
    if revision not in (None, "main") and Path(folder).is_dir():
        raise UserError(
            f"--model_revision is {revision}, but {folder} is a folder, which has no revisions; leave it out, or "
            "name a model of the Hub"
        )


def require_model(folder: Path) -> None:
    """Raises UserError, with the fix, where `folder` has no model in transformers format."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected a model in transformers format. Download a model from the Hub with "
            "`hf download NAME --local-dir output/NAME`"
        )
    if (folder / "config.json").is_file():
        require_model_type(folder / "config.json")
        return
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format (config.yaml + model.pt), expected transformers format; "
            f"convert it with `python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --step …`"
        )
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} has only an adapter; merge it into its base model: `python open_instruct/merge_lora.py`"
        )
    raise UserError(f"{folder}: no config.json; expected a folder made by save_pretrained")


def require_model_type(file: Path) -> None:
    """Raises UserError where a config.json is not JSON, or not that of a model."""
    config = read_json(file)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f'{file} has no "model_type"; expected the config.json that save_pretrained wrote')


def load_config(folder: Path) -> Any:
    """The config.json of a folder.  Raises UserError where it cannot be loaded."""
    from transformers import AutoConfig

    require_model(folder)
    with refused(folder, "its config.json", COPY_AGAIN):
        return AutoConfig.from_pretrained(folder, local_files_only=True)


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

    require_model(folder)
    with refused(folder, "the model", COPY_AGAIN):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            local_files_only=True,
            output_loading_info=True,
        )
    model, info = loaded
    wrong = {kind: sorted(map(str, keys))[:3] for kind, keys in info.items() if keys and kind.endswith("_keys")}
    if wrong:
        raise UserError(f"{folder}: the weights are not those of its config.json: {wrong}; make the folder again")
    return model


def require_tokenizer(folder: Path, *, option: str | None = None) -> None:
    """Raises UserError where the folder has no tokenizer.  option: of the command line, which names another folder."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        other = f", or give its folder by {option}" if option else ""
        raise UserError(f"{folder}: no tokenizer.json; save the tokenizer there{other}")


def load_tokenizer(folder: Path, *, option: str | None = None) -> Any:
    """Raises UserError where there is no tokenizer that can be loaded.  option: as of `require_tokenizer`."""
    from transformers import AutoTokenizer

    require_tokenizer(folder, option=option)
    with refused(folder, "its tokenizer", f"give another folder by {option}" if option else COPY_AGAIN):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # Lengths are checked against the model, so transformers' warning of "indexing errors" would be untrue.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises UserError where the tokenizer is not the model's.

    It has more tokens than the model has embeddings, or far fewer, or other ids than the one in the model's folder.
    """
    num_tokens, num_embeddings = len(tokenizer), model.get_input_embeddings().num_embeddings
    num_spare = num_embeddings - num_tokens
    if not 0 <= num_spare <= max(SPARE_EMBEDDINGS, SPARE_SHARE * num_embeddings):
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has {num_tokens} tokens, the model {model.name_or_path} "
            f"{num_embeddings} embeddings; use the model's own tokenizer"
        )
    own = Path(model.name_or_path)
    if (own / "tokenizer.json").is_file() and own.resolve() != Path(tokenizer.name_or_path).resolve():
        expected = load_tokenizer(own).get_vocab()
        differing = [token for token, i in tokenizer.get_vocab().items() if expected.get(token, i) != i]
        if differing:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path} has other ids for {len(differing)} tokens, such as "
                f"{differing[0]!r}, than that of the model {own}; use the model's own tokenizer"
            )


@contextmanager
def refused(folder: Path, what: str, cure: str) -> Iterator[None]:
    """Turn every error of the block into a UserError.

    Of a file that is cut or changed, transformers, tokenizers and safetensors raise whatever they come across, from
    KeyError to a plain Exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder}: {what} cannot be loaded ({first_line(error)}); {cure}") from error


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines or isinstance(error, KeyError):
        return " ".join([type(error).__name__, *lines[:1]])
    return lines[0]
