"""Convert a checkpoint from OLMo's own format to transformers format, and verify that both give the same logits.

Reads    {input_dir}/ in one of the layouts of native.py, e.g. config.yaml and model.pt; and a tokenizer.
Writes   {output_dir}/: sharded safetensors, config, generation config, tokenizer, meta.json (with the verification)

    python open_instruct/olmo_hf/convert_olmo_to_tf.py --family tiny --step 600 \\
        --input_dir output/tiny_ckpts/checkpoint-600 --output_dir output/tiny_tf_ckpts/checkpoint-600 \\
        --tokenizer_name_or_path output/tiny_tokenizer
"""

import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers import PreTrainedTokenizerFast as Tokenizer

from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.family import MAIN
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.olmo_package import CODE, require_installed
from open_instruct.common.sidecars import has_sidecar, read_sidecar
from open_instruct.olmo_hf.config import read_native_config, target_config, training_only_options
from open_instruct.olmo_hf.native import NativeFiles, find_native, load_state
from open_instruct.olmo_hf.shards import write_shards
from open_instruct.olmo_hf.tokenizer import EOS, tokenizer_of
from open_instruct.olmo_hf.verification import VerifyBy, verify
from open_instruct.olmo_hf.weights import Conversion, check_state, map_tensors, target_of
from open_instruct.study.variants import Variant

if TYPE_CHECKING:
    from olmo.config import ModelConfig


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoint (open_instruct/checkpoints/families.yaml)."""
    step: int | Literal["main"] | None = None
    """Pre-training step of the checkpoint; `main` (or -1): the released final weights
    (default: as recorded in input_dir's meta.json, where its name says the same)."""
    run: str | None = None
    """Pre-training run of the checkpoint, of a family that has several (default: the one whose end `main` is)."""
    stage: str | None = None
    """Stage of pre-training, other than the first, of a family that has several."""
    input_dir: Path | None = None
    """Folder of the checkpoint in OLMo's own format (default: output/{family}_ckpts/checkpoint-{step})."""
    output_dir: Path | None = None
    """Folder to write (default: output/{family}_tf_ckpts/checkpoint-{step})."""
    tokenizer_name_or_path: str | None = None
    """Folder, Hub name or tokenizer.json of the tokenizer (default: output/{family}_tokenizer)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the written weights."""
    max_shard_size: str = "500MB"
    """Largest size of one safetensors file; memory use grows with it."""
    verify: bool = True
    """Compare the logits of both models in float32."""
    verify_by: VerifyBy = "auto"
    """`whole` loads both models, `layers` one layer of each at a time; `auto` chooses by the available memory."""
    overwrite: bool = False
    """Convert again even if other arguments made the output."""


def main(args: Args) -> None:
    checkpoint = checkpoint_of(args)
    input_dir = args.input_dir or checkpoint.folder
    output_dir = args.output_dir or checkpoint.model_folder
    tokenizer_name = args.tokenizer_name_or_path or str(checkpoint.tokenizer_folder)
    native = find_native(input_dir)
    check_step(input_dir, checkpoint)
    artifact = plan_artifact(args, checkpoint, input_dir, native, output_dir, tokenizer_name)
    if artifact.is_done(overwrite=args.overwrite):
        print(f"{paths.relative(output_dir)} is done; skipped")
        return

    require_installed("conversion from OLMo's own format", CODE)
    native_config = read_native_config(native.config)
    target = target_of(native_config)
    tokenizer = load_tokenizer(tokenizer_name, native_config)
    config = target_config(native_config, target, tokenizer, args.dtype)
    dtype: torch.dtype = getattr(torch, args.dtype)
    empty = empty_tensors(config, dtype)
    pieces = map_tensors(native_config, target, empty)
    conversion = Conversion(native_config, native.weights, empty, pieces, dtype, output_dir)
    check_state(load_state(native.weights), conversion)
    check_disk(output_dir, sum(tensor.nbytes for tensor in empty.values()))

    shards: dict[str, dict[str, Any]] = {}
    with artifact.making_folder(hashed=shards) as (folder, facts):
        conversion = replace(conversion, folder=folder)
        write_config(config, tokenizer, folder)
        started = time.monotonic()
        shards |= write_shards(conversion, args.max_shard_size)
        facts["write_seconds"] = round(time.monotonic() - started, 2)
        facts["num_shards"] = len(shards)
        facts["training_only_options"] = training_only_options(native_config)
        facts["verification"] = verify(conversion, tokenizer, args.verify_by) if args.verify else None
    print(f"wrote {paths.relative(output_dir)}: {target.architecture}, {args.dtype}, {facts['num_shards']} shard(s)")


def checkpoint_of(args: Args) -> Checkpoint:
    """Raises UserError for an unknown family, and for a step that is invalid or not known."""
    step = recorded_step(args.input_dir) if args.step is None else args.step
    if step != MAIN and step < -1:
        raise UserError(f"step is {step}, expected a pre-training step, or `main`")
    family = family_named(args.family)
    stage = None if args.stage is None else family.stage_named(args.stage)
    run = args.run or (family.main_run if stage is None else None)
    return Checkpoint(family.name, None if step in (MAIN, -1) else step, run, stage)


def recorded_step(input_dir: Path | None) -> int | Literal["main"]:
    """The step in a checkpoint's sidecar.

    Raises UserError where there is no checkpoint, where it has no step, or the folder's name says another.
    """
    if input_dir is None:
        raise UserError("no checkpoint is given; expected --step or --input_dir")
    find_native(input_dir)
    identity = sidecar_identity(input_dir)
    if "step" not in identity:
        raise UserError(f"{input_dir} has no meta.json that names its step; add --step, a number or main")
    step = MAIN if identity["step"] is None else identity["step"]
    name = input_dir.resolve().name
    if re.fullmatch(rf"{MAIN}|checkpoint-\d+", name) and name != Checkpoint("", identity["step"]).name:
        raise UserError(f"{input_dir} is of step {step}, as its meta.json says; if that is right, add --step {step}")
    return step


def sidecar_identity(folder: Path) -> dict[str, Any]:
    return read_sidecar(folder).get("identity", {}) if has_sidecar(folder) else {}


def check_step(input_dir: Path, checkpoint: Checkpoint) -> None:
    """Raises UserError where the checkpoint's own sidecar names another family or step."""
    identity = sidecar_identity(input_dir)
    for field in ("family", "step", "run", "stage"):
        given = getattr(checkpoint, field)
        if field in identity and identity[field] != given:
            right, wrong = (MAIN if value is None else value for value in (identity[field], given))
            raise UserError(f"{input_dir} is of {field} {right}, not {wrong}; add --{field} {right}")


def artifacts(args: Args) -> list[Artifact]:
    """What this command line writes, for the plan of a study."""
    checkpoint = checkpoint_of(args)
    source, tokenizer = args.input_dir or checkpoint.folder, checkpoint.tokenizer_folder
    output, name = args.output_dir or checkpoint.model_folder, args.tokenizer_name_or_path or str(tokenizer)
    return [plan_artifact(args, checkpoint, source, find_native(source), output, name)]


def plan_artifact(
    args: Args, checkpoint: Checkpoint, input_dir: Path, native: NativeFiles, output_dir: Path, tokenizer_name: str
) -> Artifact:
    # The hash of a folder with a sidecar needs no second reading; elsewhere only the files that are read count.
    inputs = {"checkpoint": input_dir}
    if not has_sidecar(input_dir):
        inputs = {"config": native.config} | {f"weights_{n}": path for n, path in enumerate(native.weights)}
    arguments = {
        "family": args.family,
        "step": checkpoint.step,
        "dtype": args.dtype,
        "max_shard_size": args.max_shard_size,
        "verify": args.verify,
    }
    if Path(tokenizer_name).exists():
        inputs = {**inputs, "tokenizer": Path(tokenizer_name)}
    else:
        arguments["tokenizer"] = tokenizer_name
    return Artifact(output_dir, arguments=arguments, inputs=inputs, identity=Variant(checkpoint).identity())


def load_tokenizer(name: str, native: "ModelConfig") -> Tokenizer:
    """Raises UserError where it is missing, or its EOS, pad or size do not fit an OLMo with this config."""
    try:
        is_file = Path(name).is_file()
        tokenizer: Any = (
            tokenizer_of(Path(name), native.pad_token_id) if is_file else AutoTokenizer.from_pretrained(name)
        )
    except (OSError, ValueError) as error:
        is_missing = Path(name).is_absolute() and not Path(name).exists()
        reason = "no such folder" if is_missing else str(error).splitlines()[0]
        raise UserError(f"no tokenizer at {name} ({reason}); set --tokenizer_name_or_path") from error
    # Native configs of OLMo-1B name id 0 as EOS, which is `|||IP_ADDRESS|||`: the tokenizer's EOS is the right one.
    if tokenizer.eos_token_id is None or tokenizer.decode([tokenizer.eos_token_id]) != EOS:
        raise UserError(f"the EOS of {name} is {tokenizer.eos_token!r}, expected {EOS!r}; choose OLMo's tokenizer")
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name} names no pad token; set pad_token in its tokenizer_config.json")
    if len(tokenizer) > native.vocab_size:
        sizes = f"{len(tokenizer)} tokens, the checkpoint {native.vocab_size}"
        raise UserError(f"{name} has {sizes}; choose its own tokenizer")
    return tokenizer


def empty_tensors(config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The target's tensors on the meta device, a tied head only once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check_disk(output_dir: Path, needed_bytes: int) -> None:
    folder = next(parent for parent in output_dir.resolve().parents if parent.is_dir())
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free, the model takes {needed_bytes / 1e9:.1f} GB")


def write_config(config: PreTrainedConfig, tokenizer: Tokenizer, output_dir: Path) -> None:
    """Write configs and tokenizer.  Raises UserError where a written config names another EOS than the tokenizer."""
    config.save_pretrained(output_dir)
    GenerationConfig.from_model_config(config).save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    for written in (AutoConfig.from_pretrained(output_dir), GenerationConfig.from_pretrained(output_dir)):
        if written.eos_token_id != tokenizer.eos_token_id:
            raise UserError(
                f"{type(written).__name__} names EOS {written.eos_token_id}, expected {tokenizer.eos_token_id} ({EOS})"
            )


if __name__ == "__main__":
    run(main, Args)
