"""Model folders as people have them: copies that broke, pointers in place of files, formats that are not read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def write_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
    save_file({key: value.clone() for key, value in tensors.items()}, folder / name, metadata={"format": "pt"})


def shard(folder: Path) -> None:
    """Store the weights in two shards and an index."""
    tensors = read_weights(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{number}-of-00002.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for file, part in shards.items():
        write_weights(folder, {name: tensors[name] for name in part}, file)
    write_index(folder, {name: file for file, part in shards.items() for name in part})


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def replace_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = read_weights(folder)
    change(tensors)
    write_weights(folder, tensors)


def missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def no_index(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").unlink()


def stale_single_file(folder: Path) -> None:
    tensors = read_weights(folder)
    shard(folder)
    write_weights(folder, {name: tensor * 0 for name, tensor in tensors.items()})


def other_index(folder: Path) -> None:
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    write_index(folder, index | {"model.layers.9.mlp.up_proj.weight": "model-00001-of-00002.safetensors"})


def index_outside(folder: Path) -> None:
    write_index(folder, dict.fromkeys(read_weights(folder), "../plain/model.safetensors"))
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    torch.save(read_weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def other_format(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def remote_code(folder: Path) -> None:
    classes = {"AutoConfig": "configuration_foo.Foo", "AutoModelForCausalLM": "modeling_foo.Foo"}
    write_config(folder, model_type="foo", auto_map=classes)
    (folder / "configuration_foo.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")


def tied_twice(folder: Path) -> None:
    write_config(folder, tie_word_embeddings=True)
    replace_weights(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].flip(0)}))


def no_vocabulary(folder: Path, tokenizer_class: str = "GPTNeoXTokenizer") -> None:
    """tokenizer_config.json alone, of which transformers makes an empty tokenizer."""
    (folder / "tokenizer.json").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": tokenizer_class}))


def empty_vocabulary(folder: Path) -> None:
    """Merges without the file they belong to: a tokenizer is made, and it encodes nothing."""
    no_vocabulary(folder)
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2\n")


def unknown_only(folder: Path) -> None:
    """A vocabulary that lost its ordinary tokens."""
    path = folder / "tokenizer.json"
    special = [token["content"] for token in json.loads(path.read_text())["added_tokens"]]
    tokens = {"[UNK]": 0, **{token: number for number, token in enumerate(special, start=1)}}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "[UNK]"}
    Tokenizer.from_str(json.dumps({**json.loads(path.read_text()), "model": model, "added_tokens": []})).save(str(path))
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"unk_token": "[UNK]"}))


Damage = Callable[[Path], object]
WEIGHTS: dict[str, tuple[Damage, str]] = {
    "cut": (lambda f: cut(f / "model.safetensors", 100), "model.safetensors is cut or damaged"),
    "no_header": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "is cut or damaged"),
    "empty_file": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is empty"),
    "pointer": (lambda f: (f / "model.safetensors").write_text(POINTER), "a Git LFS pointer.*`git lfs pull`"),
    "page": (lambda f: (f / "model.safetensors").write_text("<!DOCTYPE html>\n"), "is a web page"),
    "no_weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors; found no weights"),
    "other_format": (other_format, "no model.safetensors; found consolidated.safetensors"),
    "pickled": (pickled, r"as pickles \(pytorch_model.bin\).*convert them with `python -c .*save_pretrained"),
    "missing_shard": (missing_shard, "model-00002-of-00002.safetensors is missing, which model.safetensors.index.json"),
    "no_index": (no_index, "has shards of the weights, but no model.safetensors.index.json"),
    "stale_single_file": (stale_single_file, "has model.safetensors and model.safetensors.index.json"),
    "other_index": (other_index, "disagree on model.layers.9.mlp.up_proj.weight"),
    "index_outside": (index_outside, "expected names of files beside it"),
}
"""Damage of the weights, and what every script says of it."""
CONFIG: dict[str, tuple[Damage, str]] = {
    "no_type": (lambda f: (f / "config.json").write_text("{}"), 'no "model_type"'),
    "no_json": (lambda f: (f / "config.json").write_text("{"), "config.json:1: not JSON .*copy or download it again"),
    "a_list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object, found list"),
    "config_pointer": (lambda f: (f / "config.json").write_text(POINTER), "a Git LFS pointer"),
    "quantised": (
        lambda f: write_config(f, quantization_config={"quant_method": "gptq"}),
        r"quantization_config \('gpt",
    ),
    "adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "only an adapter"),
    "adapter_too": (lambda f: (f / "adapter_config.json").write_text("{}"), "a config.json and an adapter_config.json"),
    "no_config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "layers": (
        lambda f: write_config(f, num_hidden_layers=10**6),
        "num_hidden_layers is '1000000'; expected .* to 1000",
    ),
    "dropout": (
        lambda f: write_config(f, attention_dropout=1.5),
        "attention_dropout is '1.5'; expected .* from 0 to 1",
    ),
    "named_weights": (lambda f: write_config(f, transformers_weights="x.safetensors"), "transformers_weights"),
}
LOADED: dict[str, tuple[Damage, str]] = {
    "unknown_type": (
        lambda f: write_config(f, model_type="olmo9"),
        "type 'olmo9', which transformers .* does not have",
    ),
    "no_causal_model": (lambda f: write_config(f, model_type="vit"), "type 'vit', which is no causal language model"),
    "remote_code": (remote_code, "type 'foo', .*code of a model's repository is never run"),
    "other_sizes": (lambda f: write_config(f, intermediate_size=96), "not those of its config.json: .*mismatched_keys"),
    "no_head": (lambda f: replace_weights(f, lambda tensors: tensors.pop(HEAD)), "missing_keys.*lm_head.weight"),
    "tied_twice": (tied_twice, r'ties lm_head.weight to model.embed_tokens.weight.*"tie_word_embeddings": false'),
    "not_finite": (lambda f: replace_weights(f, lambda t: t[HEAD].view(-1)[3:4].fill_(torch.nan)), "not finite"),
}
"""What is seen when the model is loaded."""
TOKENIZER: dict[str, tuple[Damage, str]] = {
    "no_tokenizer": (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "no tokenizer.json"),
    "no_vocabulary": (no_vocabulary, "no tokenizer.json"),
    "empty_vocabulary": (empty_vocabulary, "tokens that have the text"),
    "unknown_only": (unknown_only, "tokens that have the text"),
    "cut_tokenizer": (lambda f: cut(f / "tokenizer.json", 500), "its tokenizer cannot be loaded"),
    "odd_tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "its tokenizer cannot be loaded"),
    "tokenizer_pointer": (lambda f: (f / "tokenizer.json").write_text(POINTER), "a Git LFS pointer"),
}


def damaged(good: Path, folder: Path, damage: Damage) -> Path:
    """A copy of the model `good` with that damage."""
    shutil.copytree(good, folder)
    damage(folder)
    return folder
