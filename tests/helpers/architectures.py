"""Small random models of every causal architecture of transformers, made from architectures.yaml."""

from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from toy_models import toy_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

WEIGHT_STD = 0.18
"""About 1 / sqrt(hidden size): weights as small as transformers initialises them make every model nearly uniform, which
would hide faults."""


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Config fields by entry: every model type, and some with settings of their own."""
    own = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    common = own.pop("common")
    return {"common": common, **{name: {} for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}, **own}


def names() -> list[str]:
    return sorted(entries().keys() - {"common"})


def config_of(name: str, tokenizer: Any) -> PretrainedConfig:
    own = dict(entries()[name])
    cls = CONFIG_MAPPING[own.pop("model_type", name)]
    return cls(**settings(cls, own, tokenizer))


def settings(cls: Any, own: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Arguments of the config class: common sizes, no dropout, a small one of each nested config, and `own`."""
    known = {field.name: field.default for field in fields(cls)}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ids |= dict.fromkeys(("eos_token_id", "bos_token_id"), tokenizer.eos_token_id)
    given = {name: value for name, value in (entries()["common"] | ids).items() if name in known}
    given |= {name: 0.0 for name, value in known.items() if "drop" in name and isinstance(value, float)}
    given |= {name: 0.0 for name, value in known.items() if "jitter" in name and isinstance(value, float)}
    given |= by_layer(cls, own)
    for name, sub in getattr(cls, "sub_configs", {}).items():
        sub_own = dict(own.get(name) or {})
        if "model_type" in sub_own:
            sub = CONFIG_MAPPING[sub_own["model_type"]]
        if sub.__name__ != "AutoConfig":
            given[name] = settings(sub, sub_own, tokenizer) | sub_own
    return given | {name: value for name, value in own.items() if name not in getattr(cls, "sub_configs", {})}


def by_layer(cls: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Of the default's lists with an entry for each layer, the distinct entries; the number of layers.

    Between them they say which kinds of layers there are.
    """
    try:
        default = cls()
    except Exception:  # some need arguments; their entries say all
        return {}
    num_layers = getattr(default, "num_hidden_layers", None)
    lists = {}
    for name in {field.name for field in fields(cls)} - own.keys():
        values = default.__dict__.get(name)
        if isinstance(values, list) and len(values) == num_layers and all(isinstance(v, str) for v in values):
            lists[name] = list(dict.fromkeys(values))
    if not lists:
        return {}
    num_layers = own.get("num_hidden_layers", max(2, *map(len, lists.values())))
    in_turn = {name: [kinds[i % len(kinds)] for i in range(num_layers)] for name, kinds in lists.items()}
    return {"num_hidden_layers": num_layers, **in_turn}


@cache
def cannot_be_built(name: str) -> str:
    """Why transformers has no model of this entry's config; empty where it has."""
    with TemporaryDirectory() as folder:
        tokenizer = toy_tokenizer(Path(folder))
    try:
        with torch.device("meta"):
            auto_class(config_of(name, tokenizer)).from_config(config_of(name, tokenizer))
    except Exception as error:  # each architecture checks its config in its own way
        return " ".join(str(error).split())
    return ""


def auto_class(config: PretrainedConfig) -> Any:
    """A folder with images is published whole; its text part is the causal language model."""
    if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def build(folder: Path, name: str, *, seed: int = 0) -> Any:
    """The entry's model, in evaluation mode, with its tokenizer, saved in `folder`."""
    tokenizer = toy_tokenizer(folder)
    torch.manual_seed(seed)
    config = config_of(name, tokenizer)
    model: Any = auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            widen(parameter)
    model.eval().save_pretrained(folder)
    return model


def widen(parameter: torch.Tensor) -> None:
    """Let a weight be of unit gain, and none be zero or one."""
    if parameter.ndim < 2:
        parameter += 0.1 * torch.randn_like(parameter)
    elif parameter.std() < 1e-6:
        parameter += WEIGHT_STD * torch.randn_like(parameter)
    else:
        parameter *= max(1.0, WEIGHT_STD / parameter.std().item())
