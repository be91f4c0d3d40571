"""Merge a low-rank adapter into the model it was trained on: the output is an ordinary model for every stage.

Reads   an adapter folder (finetune.py --use_lora --keep_weights lora) and the model it was trained on.
Writes  {output_dir}/: weights, tokenizer, generation settings, meta.json (the adapter's identity).

    python open_instruct/merge_lora.py --output_dir output/tiny_hf_ckpt600_socialiqa_2epoch_1e-3_lora_fp32_merged \\
        --lora_model_name_or_path output/tiny_hf_ckpt600_socialiqa_2epoch_1e-3_lora_fp32_adapter
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.model_files import require_adapter, require_loadable, require_model
from open_instruct.common.model_loading import load_config, load_tokenizer, model_folder
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.study.own_models import derived_name


@dataclass(frozen=True)
class Args:
    lora_model_name_or_path: str
    """Folder or Hub name of the adapter."""
    output_dir: Path
    """Folder of the merged model."""
    base_model_name_or_path: str | None = None
    """Folder or Hub name of the model (default: the one in adapter_config.json)."""
    overwrite: bool = False
    """Merge again where another adapter made the output."""


def main(args: Args) -> None:
    adapter = model_folder(args.lora_model_name_or_path)
    config = require_adapter(adapter)
    base = model_folder(args.base_model_name_or_path or recorded_base(adapter, config))
    has_tokenizer = (adapter / "tokenizer_config.json").is_file()
    tokenizer_folder = adapter if has_tokenizer else base
    require_model(base)
    artifact = Artifact(
        args.output_dir,
        arguments={"merged": True},
        inputs={"adapter": adapter, "model": base},
        identity=identity(args, adapter),
    )
    if artifact.is_done(overwrite=args.overwrite):
        print(f"done already: {artifact.path}")
        return
    require_loadable(base, tokenizer_folder, option="--base_model_name_or_path")
    # torch takes seconds to import: `--help` and user errors do not need it.
    from open_instruct.training.saving import merge_adapter, save_tokenizer_and_generation_config

    load_config(base)  # raises UserError: of a damaged one, the tokenizer would be blamed
    tokenizer = load_tokenizer(tokenizer_folder, option="--base_model_name_or_path")
    with artifact.making_folder() as (folder, _):
        merge_adapter(base, adapter).save_pretrained(folder)
        save_tokenizer_and_generation_config(tokenizer, folder)
    print(f"wrote {artifact.path}")


def recorded_base(adapter: Path, config: Mapping[str, Any]) -> str:
    """Raises UserError where adapter_config.json names no model."""
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise UserError(f"{adapter}/adapter_config.json names no model; give it by --base_model_name_or_path")
    return config["base_model_name_or_path"]


def identity(args: Args, adapter: Path) -> dict:
    """The adapter's identity; without a sidecar, an id that no other output has."""
    if has_sidecar(adapter):
        return read_sidecar(adapter)["identity"]
    return {"model_id": derived_name(args.output_dir)}


if __name__ == "__main__":
    run(main, Args)
