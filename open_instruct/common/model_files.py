"""The files of a model in transformers format, checked before torch and transformers are imported."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json

COPY_AGAIN = "copy or download it again"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
ADAPTER = "adapter_model.safetensors"
TO_SAFETENSORS = (
    "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{0}').save_pretrained('{0}')\""
)
RANGES = {r"num_hidden_layers|(n|num)_layers?": (1, 1000), r".*(dropout|_pdrop|layerdrop)": (0, 1)}
"""Patterns of numbers in a config.json -> least and most. A wrong number of layers would be built first."""
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json")
"""Patterns of the files that have a tokenizer's vocabulary: transformers builds a tokenizer from any of them."""
STAND_INS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned, or "
    "download it with `hf download`",
    b"<!doctype html": "a web page, not the file itself; download it with `hf download`",
    b"<html": "a web page, not the file itself; download it with `hf download`",
}
"""How files begin that stand in the place of another -> what they are."""


def require_model(folder: Path) -> None:
    """Raises UserError, with the fix, where `folder` has no model in transformers format. No weight is looked at."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected a model in transformers format. Download a model from the Hub with "
            "`hf download NAME --local-dir output/NAME`"
        )
    has_config, has_adapter = ((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    if has_config and has_adapter:
        raise UserError(
            f"{folder} has a config.json and an adapter_config.json, and transformers would load the adapter on top of "
            "the model; move one of the two away"
        )
    if has_config:
        require_config(folder / "config.json")
        return
    if (folder / "model.pt").is_file():
        raise UserError(
            f"{folder} is in OLMo's own format (config.yaml + model.pt), expected transformers format; "
            f"convert it with `python open_instruct/olmo_hf/convert_olmo_to_tf.py --input_dir {folder} --step …`"
        )
    if has_adapter:
        raise UserError(
            f"{folder} has only an adapter; merge it into its base model: `python open_instruct/merge_lora.py`"
        )
    raise UserError(f"{folder}: no config.json; expected a folder made by save_pretrained")


def require_config(file: Path) -> None:
    """Raises UserError where a config.json is not that of a model whose weights can be used as they are."""
    config = read_object(file)
    if not isinstance(config.get("model_type"), str):
        raise UserError(f'{file} has no "model_type"; expected the config.json that save_pretrained wrote')
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            require_entries(part, file)
    if config.get("transformers_weights") is not None:
        raise UserError(
            f"{file} names other weights by transformers_weights; expected them in {WEIGHTS}: rename the file and "
            "remove that entry"
        )


def require_entries(part: Mapping[str, Any], file: Path) -> None:
    """Raises UserError for quantised weights, and for numbers with which a model cannot be built or trained."""
    for name in ("quantization_config", "compression_config"):
        if (found := part.get(name)) is not None:
            method = found.get("quant_method") if isinstance(found, dict) else found
            raise UserError(
                f"{file} has a {name} ({str(method)[:40]!r}); expected weights in float32, bfloat16 or float16: "
                "use the model that was not quantised, or save it again after `model.dequantize()`"
            )
    for name, value in part.items():
        for pattern, (least, most) in RANGES.items():
            is_left_out = value is None and name != "attention_dropout"
            is_in_range = isinstance(value, int | float) and least <= value <= most
            if re.fullmatch(pattern, name) and not is_left_out and not is_in_range:
                found = str(value)[:40]
                raise UserError(f"{file}: {name} is {found!r}; expected a number from {least} to {most}; {COPY_AGAIN}")


def require_tokenizer(folder: Path, *, option: str | None = None) -> None:
    """Raises UserError where the folder has no tokenizer.  option: of the command line, which names another folder."""
    files = [file for pattern in ("tokenizer_config.json", *VOCABULARIES) for file in folder.glob(pattern)]
    for file in files:
        require_own_content(file)
    if not any(fnmatch.fnmatch(file.name, pattern) for file in files for pattern in VOCABULARIES):
        other = f", or give its folder by {option}" if option else ""
        raise UserError(f"{folder}: no tokenizer.json; save the tokenizer there{other}")


def require_loadable(folder: Path, tokenizer: Path, *, option: str | None = None) -> None:
    """Raises UserError where files of the model in `folder`, or of the tokenizer, are missing or damaged."""
    require_model(folder)
    weight_files(folder)
    require_tokenizer(tokenizer, option=option)


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a model: of its only file, or of the shards that the index names.

    Raises UserError where there is none, one is missing or damaged, or it is not clear which ones are the model's.
    """
    index, single = folder / INDEX, folder / WEIGHTS
    if not index.is_file():
        if not single.is_file():
            raise UserError(no_weights(folder))
        return dict.fromkeys(tensor_names(single), single)
    named = shards_of(index)
    shards = {folder / shard for shard in named.values()}
    if single.is_file() and single not in shards:
        raise UserError(f"{folder} has {WEIGHTS} and {INDEX}, which names other files; remove the older of the two")
    if missing := sorted(shard.name for shard in shards if not shard.is_file()):
        raise UserError(f"{folder}: {listed(missing)} is missing, which {INDEX} names; {COPY_AGAIN}")
    found = {name: shard for shard in sorted(shards) for name in tensor_names(shard)}
    differing = sorted(name for name in named.keys() | found if folder / named.get(name, "") != found.get(name))
    if differing:
        raise UserError(f"{index} and the files that it names disagree on {listed(differing)}; {COPY_AGAIN}")
    return found


def shards_of(index: Path) -> dict[str, str]:
    """Tensor name -> file name.  Raises UserError where the index has none."""
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(shard, str) for shard in named.values()):
        raise UserError(f'{index} has no "weight_map" of tensors to files; {COPY_AGAIN}')
    if outside := [shard for shard in named.values() if Path(shard).name != shard]:
        raise UserError(f"{index} names {outside[0]!r}; expected names of files beside it; {COPY_AGAIN}")
    return named


def no_weights(folder: Path) -> str:
    """What is there in place of weights, and what to do."""
    if any(folder.glob(SHARDS)):
        return f"{folder} has shards of the weights, but no {INDEX}; {COPY_AGAIN}"
    pickles = [path.name for path in sorted(folder.glob("pytorch_model*.bin"))]
    if pickles:
        return (
            f"{folder} has its weights as pickles ({pickles[0]}), which could run code and are not read; expected "
            f"{WEIGHTS}: convert them with `{TO_SAFETENSORS.format(folder)}` if you trust their source"
        )
    others = sorted(
        path.name
        for pattern in ("*.safetensors", "*.gguf", "*.h5", "*.msgpack", "*.bin", "*.pth")
        for path in folder.glob(pattern)
    )
    found = f"found {', '.join(others[:3])}" if others else "found no weights"
    return f"{folder}: no {WEIGHTS}; {found}; expected a folder that save_pretrained wrote with all its files"


def require_adapter(folder: Path) -> Mapping[str, Any]:
    """The adapter_config.json of an adapter.  Raises UserError where it or the adapter's weights cannot be used."""
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: no adapter_config.json; expected an adapter, made by finetune.py --use_lora")
    config = read_object(folder / "adapter_config.json")
    if not (folder / ADAPTER).is_file():
        raise UserError(f"{folder}: no {ADAPTER}; pickles (*.bin) are not read: save the adapter again with peft")
    tensor_names(folder / ADAPTER)
    return config


def tensor_names(file: Path) -> list[str]:
    """The tensors of a safetensors file.  Raises UserError where it is no such file, or is cut."""
    from safetensors import SafetensorError, safe_open

    require_own_content(file)
    try:
        with safe_open(file, framework="numpy") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        raise UserError(f"{file} is cut or damaged ({first_line(error)}); {COPY_AGAIN}") from error


def listed(names: Iterable[str]) -> str:
    """A few names out of a file, in one line."""
    return ", ".join(name if name.isprintable() else repr(name) for name in list(names)[:3])


def require_own_content(file: Path) -> None:
    """Raises UserError where a file is empty, or something else stands in its place."""
    with file.open("rb") as opened:
        beginning = opened.read(64).lstrip().lower()
    if not beginning:
        raise UserError(f"{file} is empty; {COPY_AGAIN}")
    for start, what in STAND_INS.items():
        if beginning.startswith(start):
            raise UserError(f"{file} is {what}")


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file of the model.  Raises UserError where it is not an object."""
    require_own_content(file)
    value = read_json(file, cure=COPY_AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(value).__name__}; {COPY_AGAIN}")
    return value


@contextmanager
def refused(folder: Path, what: str, cure: str) -> Iterator[None]:
    """Turn every error of the block into a UserError.

    Of a file that is cut or changed, transformers, tokenizers and safetensors raise whatever they come across, from
    KeyError to a plain Exception.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        raise UserError(f"{folder}: {what} cannot be loaded ({first_line(error)}); {cure}") from error


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    if not lines or isinstance(error, KeyError):
        return " ".join([type(error).__name__, *lines[:1]])
    return lines[0]
