"""Fine-tune one checkpoint on one train set: the loss is on completion (or assistant) tokens and EOS only.

Reads   a model (folder in transformers format, or name on the Hub) and a train file (JSON lines with
        prompt/completion or messages).
Writes  output/{model_id}/: weights, tokenizer, README.md, training_log.jsonl, meta.json; and, while it runs,
        output/{model_id}.state/: what it needs to go on where it was stopped.

    python open_instruct/finetune.py --model_name_or_path output/tiny_tf_ckpts/checkpoint-600 \\
        --train_file data/socialiqa.jsonl --learning_rate 1e-3 --num_train_epochs 2

Several processes: `accelerate launch --num_processes 2 open_instruct/finetune.py …`; the result does not depend on how
many (beyond float noise): the loss is averaged over all target tokens of an optimiser step.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from transformers import AutoConfig

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.common.artifacts import (
    Artifact,
    describe_files,
    provenance,
    read_sidecar,
    sidecar_path,
)
from open_instruct.common.cli import run
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError
from open_instruct.common.json_files import write_json
from open_instruct.study.variants import Variant
from open_instruct.training import memory
from open_instruct.training.arguments import Args, resolve, training_arguments
from open_instruct.training.attention import require_window
from open_instruct.training.batches import most_held, step_rows
from open_instruct.training.data import Examples, load_train_and_validation
from open_instruct.training.loop import LOG_NAME, Run, as_lines, fit, prepare
from open_instruct.training.loss import TargetLoss, check_projection
from open_instruct.training.model import (
    add_adapters,
    attention_for,
    load_model,
    load_tokenizer,
    model_folder,
)
from open_instruct.training.model_card import model_card
from open_instruct.training.publishing import publish, require_login
from open_instruct.training.saving import remove_weights, save_model, save_surroundings, save_trained
from open_instruct.training.state import SavedAndStoppedError, State

TRACKING_PROJECT = "pretraining-vs-finetuning"
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def main(args: Args) -> None:
    args = resolve(args, num_processes=int(os.environ.get("WORLD_SIZE", "1")))
    require_files(args)
    base = model_folder(args.model_name_or_path, args.model_revision)
    variant = variant_of(args, base)
    output = output_dir(args, variant)
    artifact = Artifact(
        output,
        arguments=training_arguments(args),
        inputs=inputs(args, base),
        identity=variant.identity() if variant else {"model_id": paths.safe_name(output.name)},
    )
    if artifact.is_done(overwrite=args.overwrite):
        print(f"done already: {artifact.path}")
        is_main_process = True
    else:
        is_main_process = train(args, base, artifact)
    if is_main_process:
        run_commands(args, artifact)
        if args.push_to_hub:
            print(f"published {publish(artifact.path, args.push_to_hub)}")


def train(args: Args, base: Path, artifact: Artifact) -> bool:
    """Make the artifact; all processes go through here.  -> whether this is the one that writes.

    Ends the process with SAVED_AND_STOPPED when it is asked to stop.
    """
    accelerator = make_accelerator(args, artifact)
    stopped = None
    try:
        train_with(accelerator, args, base, artifact)
    except SavedAndStoppedError as error:
        stopped = str(error)  # the error itself holds on to the model
    # The model goes before the group of processes. The other way round its gradient reducer, freed under Python's
    # lock, is the last to hold the group, and waits for gloo's threads while they wait for that lock: for ever.
    accelerator.free_memory()
    accelerator.end_training()
    if stopped is not None:
        accelerator.print(stopped)
        sys.exit(SAVED_AND_STOPPED)
    return accelerator.is_main_process


def train_with(accelerator: Accelerator, args: Args, base: Path, artifact: Artifact) -> None:
    is_main = accelerator.is_main_process
    tokenizer = load_tokenizer(Path(args.tokenizer_name) if args.tokenizer_name else base)
    examples, validation, num_cut = load_train_and_validation(
        tokenizer,
        args.train_file,
        validation_file=args.validation_file,
        max_train_rows=args.max_train_rows,
        num_validation_rows=args.num_validation_rows,
        max_length=args.max_seq_length,
        num_workers=args.preprocessing_num_workers,
    )
    steps = step_rows(
        len(examples),
        num_epochs=args.num_train_epochs,
        batch_size=args.total_batch_size or 1,
        seed=args.seed,
        max_steps=args.max_train_steps,
    )
    check_memory(args, accelerator, base, examples, steps)
    if attention_for(packing=args.packing, half_precision=args.half_precision) == "packed":
        require_window(AutoConfig.from_pretrained(args.config_name or base), longest=int(examples.lengths.max()))
    # Every process waits for the main one to clear the folder; the others write nothing.
    with artifact.making(is_folder=True) if is_main else nullcontext({}) as facts:
        set_seed(args.seed)
        model = make_model(args, accelerator, base, tokenizer)
        module, optimizer, scheduler = prepare(args, accelerator, TargetLoss(model), num_steps=len(steps))
        state = State(artifact.path, accelerator, arguments=artifact.arguments, inputs=artifact.input_hashes())

        def save_best(step: int) -> None:
            weights = trained_weights(accelerator, module)
            state.on_main(lambda: save_trained(model, weights, state.folder / f"best-{step}"))

        progress = fit(
            Run(args, accelerator, module, optimizer, scheduler, steps, examples, validation, state, save_best)
        )
        weights = trained_weights(accelerator, module)
        if is_main:
            best = state.folder / f"best-{progress.best_step}" if progress.best_step is not None else None
            save_model(model, weights, artifact.path, base=base, merge=args.keep_weights != "lora", best=best)
            save_surroundings(tokenizer, artifact.path)
            (artifact.path / LOG_NAME).write_text(as_lines(progress.log))
            facts.update(rows=len(examples), examples_cut=num_cut, tokens=progress.num_tokens, **final(progress.log))
            facts.update(training_seconds=round(progress.seconds, 2), sessions=progress.sessions)
            facts.update(num_processes=accelerator.num_processes)
            facts.update(base_model=args.model_name_or_path, best_step=progress.best_step)
            meta = {"identity": artifact.identity, "arguments": artifact.arguments, **facts, **provenance()}
            (artifact.path / "README.md").write_text(model_card(meta, log=progress.log))
    if is_main:
        state.clear()
        print(f"wrote {artifact.path}")


def require_files(args: Args) -> None:
    """Raises UserError for what is not there, before anything heavy."""
    if not args.train_file.is_file():
        raise UserError(
            f"{args.train_file}: no such train file; make it with "
            f"`python open_instruct/format_generalization.py --train_sets {args.train_file.stem}`"
        )
    if args.validation_file and not args.validation_file.is_file():
        raise UserError(f"{args.validation_file}: no such validation file; hold rows back by --num_validation_rows")
    missing = [name for name in args.report_to if args.with_tracking and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--report_to {' '.join(missing)}: not installed; pip install {' '.join(missing)}")
    if args.push_to_hub:
        require_login(args.push_to_hub)


def variant_of(args: Args, base: Path) -> Variant | None:
    """The identity of what is being made; None where the model or the data did not come from this project."""
    if not sidecar_path(base).is_file() or not sidecar_path(args.train_file).is_file():
        return None
    model, data = read_sidecar(base)["identity"], read_sidecar(args.train_file)["identity"]
    if model.get("train_set") is not None:
        return None
    checkpoint = Checkpoint(model["family"], model["step"])
    adapter = "lora" if args.use_lora else "full"
    return Variant(checkpoint, data["train_set"], args.num_train_epochs, args.learning_rate, args.seed, adapter)


def output_dir(args: Args, variant: Variant | None) -> Path:
    if args.output_dir is not None:
        return args.output_dir
    if variant is None:
        raise UserError(
            "the model is no checkpoint of this project, or the train file has no sidecar, so the output has no name; "
            "give --output_dir"
        )
    return variant.folder


def inputs(args: Args, base: Path) -> dict[str, Path]:
    """What is read, by role."""
    given = {"config": args.config_name, "tokenizer": args.tokenizer_name, "validation_file": args.validation_file}
    return {"train_file": args.train_file, "model": base} | {k: Path(v) for k, v in given.items() if v is not None}


def make_accelerator(args: Args, artifact: Artifact) -> Accelerator:
    """Processes, precision and trackers."""
    accelerator = Accelerator(
        # Told so, accelerate joins processes on CPUs; else each would take itself for the only one.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=trackers(args, artifact) or None,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UserError(f"{started} processes were started, and accelerate sees {accelerator.num_processes} of them")
    if started == 1 and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
        # The address is for several processes, which accelerate starts by mpirun only.
        print("accelerate launch --cpu started one process; for more add --config_file scripts/accelerate/cpu.yaml")
    config = {k: v if isinstance(v, int | float | bool) else str(v) for k, v in artifact.arguments.items()}
    accelerator.init_trackers(TRACKING_PROJECT, config=config)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed wants to be told what it would else read from a data loader or its own file.
        plugin: Any = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        plugin.deepspeed_config["gradient_clipping"] = args.max_grad_norm
    return accelerator


def trackers(args: Args, artifact: Artifact) -> list[Any]:
    if not args.with_tracking:
        return []
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    folder, name = paths.base_dir() / "output" / "tracking", artifact.path.name
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Any] = [TensorBoardTracker(name, logging_dir=folder)] if "tensorboard" in args.report_to else []
    if "wandb" in args.report_to:
        made.append(WandBTracker(TRACKING_PROJECT, name=name, dir=str(folder)))
    return made


def check_memory(args: Args, accelerator: Accelerator, base: Path, examples: Examples, steps: list[list[int]]) -> None:
    """Print what the run needs and what there is.  Raises UserError where it cannot fit."""
    world = accelerator.num_processes
    num_tokens, num_targets = most_held(
        examples.lengths, examples.num_targets, steps, args.holding, num_processes=world
    )
    need = memory.estimate(
        AutoConfig.from_pretrained(args.config_name or base),
        num_tokens=num_tokens,
        num_targets=num_targets,
        half_precision=args.half_precision,
        gradient_checkpointing=args.gradient_checkpointing,
        lora_rank=args.lora_rank if args.use_lora else None,
        num_shards=world if accelerator.distributed_type in SHARDED else 1,
    )
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or world)
    free = memory.available(accelerator.device, num_local_processes=local_world)
    accelerator.print(f"memory: about {need}; {free / memory.GB:.3g} GB are free")
    if args.check_memory:
        memory.require(need, free)


def make_model(args: Args, accelerator: Accelerator, base: Path, tokenizer: Any) -> Any:
    model = load_model(
        base,
        tokenizer,
        config_folder=Path(args.config_name) if args.config_name else None,
        packing=args.packing,
        half_precision=args.half_precision,
    )
    if accelerator.distributed_type != DistributedType.DEEPSPEED:  # whose weights lie in pieces already
        check_projection(model, packing=args.packing)
    if args.use_lora:
        model = add_adapters(model, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def trained_weights(accelerator: Accelerator, module: Any) -> dict[str, Any]:
    """The state of the model inside TargetLoss, whole on the main process.  All processes call it."""
    weights: Any = accelerator.get_state_dict(module)
    return {name.removeprefix("model."): tensor for name, tensor in (weights or {}).items()}


def final(log: list[dict[str, Any]]) -> dict[str, Any]:
    validations = [line for line in log if "validation_loss" in line]
    return {"final": [line for line in log if "loss" in line][-1]} | (
        {"final_validation": validations[-1]} if validations else {}
    )


def run_commands(args: Args, artifact: Artifact) -> None:
    """What is to be done with the finished model; then its weights go where they are not to be kept.

    Ends the process with a command's exit code where one fails: the weights stay, and the next start goes on here.
    """
    if read_sidecar(artifact.path).get("weights_removed"):
        return
    for command in args.then:
        print(f"then: python {command}", flush=True)
        # Not part of the launcher's group of processes.
        environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=paths.REPOSITORY, env=environment)
        if done.returncode != 0:
            print(f"error: exit code {done.returncode} of: python {command}", file=sys.stderr)
            sys.exit(done.returncode)
    if args.keep_weights == "none":
        remove_weights(artifact.path)
        changes = {"files": describe_files(artifact.path), "weights_removed": True}
        write_json(sidecar_path(artifact.path), read_sidecar(artifact.path) | changes)
        print(f"removed the weights of {artifact.path}")


if __name__ == "__main__":
    run(main, Args)
