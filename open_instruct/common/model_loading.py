"""Models and tokenizers in transformers format: find the folder, load, check.

transformers takes seconds to import, so each function imports it itself.
"""

from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import hub_errors
from open_instruct.common.model_files import (
    ADAPTER,
    COPY_AGAIN,
    SHARDS,
    WEIGHTS,
    read_object,
    refused,
    require_model,
    require_tokenizer,
    weight_files,
)
from open_instruct.common.special_tokens import (
    AddBosToken,
    keep_spelled_tokens_text,
    require_offsets,
    stored_tokenizer,
    with_bos,
)

HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", WEIGHTS, SHARDS, ADAPTER)
"""Files that are downloaded from a Hub repository: weights as safetensors, no pickles, no code."""
RUN_AGAIN = "run the same command again, which goes on with what is downloaded"
PLAIN_TEXT = "The cat sat on the mat, and it slept."
TEXTS = (PLAIN_TEXT, " It cost 12345 and 6.7.\n\nWhy?", "a  b\n\tc 的 café", "<|user|>\nIs it?\n<|assistant|>\nit's so")
"""Texts on which kinds of tokenizers differ: at their beginning, in white space, digits and letters."""
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

    folder = Path(name)
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format; convert it first: "
            f"python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --step …"
        )
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "output/")) or name.count("/") > 2:
        raise UserError(
            f"{name}: no such folder; expected a model in transformers format, or a name on the Hub: "
            "owner/repository[/folder]"
        )
    parts = name.split("/")
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in files]
    with hub_errors(f"{name}: no such folder, and on the Hub", next_step=RUN_AGAIN):
        found = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns)) / inside
    if not found.is_dir():
        raise UserError(f"{repository} has no folder {inside} with a model; give one that it lists")
    if WEIGHTS in files and not any(found.glob("*.safetensors")):
        raise UserError(
            f"{name}: no {WEIGHTS} on the Hub, or its download broke off before; run the same command again, or name a "
            "model with safetensors: pickles are not downloaded"
        )
    return found


def require_no_revision(folder: str, revision: str | None) -> None:
    """Raises UserError for a revision of a folder, which has none. `main`, the Hub's default, is accepted."""
    if revision not in (None, "main") and Path(folder).is_dir():
        raise UserError(
            f"--model_revision is {revision}, but {folder} is a folder, which has no revisions; leave it out, or "
            "name a model of the Hub"
        )


def load_config(folder: Path) -> Any:
    """The config.json of a folder.  Raises UserError where it is not that of a causal model of transformers."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, __version__

    require_model(folder)
    model_type = read_object(folder / "config.json")["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{folder} is of the model type {model_type!r}, which transformers {__version__} does not have; expected "
            "one that it has, since code of a model's repository is never run: see whether a newer transformers has it"
        )
    with refused(folder, "its config.json", COPY_AGAIN):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{folder} is of the model type {model_type!r}, which is no causal language model in transformers; give a "
            "model that continues a text"
        )
    return config


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    config: Any | None = None,
    device_map: str | None = None,
) -> Any:
    """A causal language model, with torch's scaled_dot_product_attention, or its own where it does not support that.

    config: in place of the folder's own; device_map: `meta` checks names and shapes without reading weights.
    Of a model with images or sound, it is the part that has to do with text.
    Raises UserError where it cannot be loaded, or the weights are not exactly those of the config.
    """
    from transformers import AutoModelForCausalLM

    settings: Any = config or load_config(folder)
    weight_files(folder)
    settings._attn_implementation = None  # config.json could name another one than the default
    with refused(folder, "the model", COPY_AGAIN):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=settings,
            dtype=dtype,
            device_map=device_map,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # named below
            output_loading_info=True,
        )
    model, info = loaded
    wrong = {kind: sorted(map(str, keys))[:3] for kind, keys in info.items() if keys and kind.endswith("_keys")}
    if type(model.config) is not type(settings) and not wrong.keys() - {"unexpected_keys"}:
        wrong = {}  # these are of the parts for images and sound
    if wrong:
        raise UserError(f"{folder}: the weights are not those of its config.json: {wrong}; make the folder again")
    require_tied(model, folder)
    require_finite(model, folder)
    return model


def require_tied(model: Any, folder: Path) -> None:
    """Raises UserError where weights that config.json ties are stored twice with different values.

    transformers leaves them untied in memory; saved, such a model is tied again.
    """
    for copy, original in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        weights, others = (model.get_parameter_or_buffer(name) for name in (copy, original))
        if weights is not others and not (weights.is_meta and are_stored_alike(folder, copy, original)):
            raise UserError(
                f"{folder}: its config.json ties {copy} to {original}, and the weights have two different ones; set "
                '"tie_word_embeddings": false in config.json if both are trained, or remove the wrong one'
            )


def are_stored_alike(folder: Path, *names: str) -> bool:
    """Whether the tensors that the folder has of these names are equal."""
    from safetensors import safe_open

    files, found = weight_files(folder), []
    for name in set(names) & files.keys():
        with safe_open(files[name], "pt") as file:
            found.append(file.get_tensor(name))
    return all(tensor.equal(found[0]) for tensor in found)


def require_finite(model: Any, folder: Path) -> None:
    """Raises UserError where a weight is NaN or infinite."""
    for name, weights in model.named_parameters():
        if weights.numel() and not weights.is_meta and not weights.detach().abs().max().isfinite():
            raise UserError(f"{folder}: {name} has values that are not finite; use a model whose training did not fail")


def load_tokenizer(folder: Path, *, option: str | None = None, add_bos_token: AddBosToken | None = None) -> Any:
    """The tokenizer, which keeps special tokens that data spell out as text.

    option: as of `require_tokenizer`; add_bos_token: whether it puts BOS before a text (None: as its files say).
    Raises UserError where there is none that can be loaded, or it cannot do so.
    """
    from transformers import AutoTokenizer

    require_tokenizer(folder, option=option)
    what = "its tokenizer" if (folder / "tokenizer.json").is_file() else "its tokenizer, which has no tokenizer.json,"
    with refused(folder, what, f"{COPY_AGAIN}, or give another folder by {option}" if option else COPY_AGAIN):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = as_stored(tokenizer, folder)
    require_usable(tokenizer, folder)
    require_offsets(tokenizer)
    keep_spelled_tokens_text(tokenizer)
    tokenizer = with_bos(tokenizer, add_bos_token)
    # Lengths are checked against the model, so transformers' warning of "indexing errors" would be untrue.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def as_stored(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer, or that of tokenizer.json as it is, where transformers' class makes other tokens of texts.

    It takes the class for the model's type (Qwen2's, for one) or the one that tokenizer_config.json names, which put
    their own way of splitting texts in place of that in tokenizer.json, by which the model was trained.
    """
    from transformers import PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    if type(tokenizer) is PreTrainedTokenizerFast or not file.is_file() or not tokenizer.is_fast:
        return tokenizer
    stored = stored_tokenizer(file)
    if all(
        stored.encode(text, add_special_tokens=False).ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in TEXTS
    ):
        return tokenizer
    print(
        f"{file} is used as it is: {type(tokenizer).__name__} of transformers makes other tokens of texts", flush=True
    )
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def require_usable(tokenizer: Any, folder: Path) -> None:
    """Raises UserError where a tokenizer loses a plain text: transformers makes an empty one of missing files."""
    with refused(folder, "its tokenizer", COPY_AGAIN):
        ids = tokenizer(PLAIN_TEXT, add_special_tokens=False)["input_ids"]
        is_lost = not set(ids) - {tokenizer.unk_token_id} or not tokenizer.decode(ids, skip_special_tokens=True).strip()
    if is_lost:
        raise UserError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens and makes {ids} of {PLAIN_TEXT!r}; expected tokens "
            "that have the text: are all files of the tokenizer there, tokenizer.json first?"
        )


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
