"""Make one fine-tuned model: accelerator, data, memory check, model, training loop, output folder."""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import SAVED_AND_STOPPED, UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.model_files import COPY_AGAIN, refused
from open_instruct.common.model_loading import load_config, load_tokenizer
from open_instruct.common.ownership import require_own_working_folder
from open_instruct.common.provenance import provenance
from open_instruct.common.special_tokens import begins_with
from open_instruct.data.encode import eos_id
from open_instruct.training import memory
from open_instruct.training.arguments import Args
from open_instruct.training.data import Examples, load_train_and_validation
from open_instruct.training.graphs import uses_graphs
from open_instruct.training.loop import Run, fit, prepare
from open_instruct.training.loss import TargetLoss
from open_instruct.training.model import load_for_training, require_positions
from open_instruct.training.model_card import model_card
from open_instruct.training.saving import save_model, save_tokenizer_and_generation_config
from open_instruct.training.state import LOG_NAME, Progress, SavedAndStoppedError, State, seal, state_folder
from open_instruct.training.steps import largest_micro_batch, step_rows

TRACKING_PROJECT = "pretraining-vs-finetuning"
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def train(args: Args, artifact: Artifact) -> None:
    """Train and save; every process calls this.  Exits with code SAVED_AND_STOPPED after a request to stop."""
    accelerator = make_accelerator(args, artifact)
    stopped = None
    try:
        train_and_save(accelerator, args, artifact)
    except SavedAndStoppedError as error:
        stopped = str(error)  # the error itself refers to the model
    # Free the model before the process group. Otherwise its gradient reducer, freed under Python's lock, is the last
    # owner of the group and waits for gloo's threads, while they wait for that lock: a deadlock.
    accelerator.free_memory()
    accelerator.end_training()
    if stopped is not None:
        accelerator.print(stopped)
        sys.exit(SAVED_AND_STOPPED)


def train_and_save(accelerator: Accelerator, args: Args, artifact: Artifact) -> None:
    is_main, base = accelerator.is_main_process, artifact.inputs["model"]
    require_own_working_folder(state_folder(artifact.path))
    config = load_config(artifact.inputs.get("config", base))
    tokenizer = load_tokenizer(
        artifact.inputs.get("tokenizer", base), option="--tokenizer_name_or_path", add_bos_token=args.add_bos_token
    )
    eos_id(tokenizer)  # raises UserError where the tokenizer names none
    examples, validation, num_cut = load_train_and_validation(
        tokenizer,
        args.train_file,
        validation_file=args.validation_file,
        max_train_rows=args.max_train_rows,
        num_validation_rows=args.num_validation_rows,
        max_length=args.max_seq_length,
        num_workers=args.preprocessing_num_workers,
    )
    assert args.num_train_epochs is not None  # given or registered
    assert args.total_batch_size is not None  # filled in
    steps = step_rows(
        len(examples),
        num_epochs=args.num_train_epochs,
        batch_size=args.total_batch_size,
        seed=args.seed,
        max_steps=args.max_train_steps,
    )
    longest = max(int(each.lengths.max()) for each in (examples, validation) if each is not None)
    require_positions(config, longest=longest)
    check_memory(args, accelerator, estimate_memory(args, accelerator, config, examples, steps))
    # Only the main process writes into the output folder.
    with artifact.making_folder() if is_main else nullcontext((None, {})) as (folder, facts):
        is_sharded = accelerator.distributed_type == DistributedType.DEEPSPEED
        is_on_gpu = accelerator.device.type == "cuda"
        model, way = load_for_training(
            args, base, config, tokenizer, longest=longest, on_gpu=is_on_gpu, is_sharded=is_sharded
        )
        if way.reasons:
            accelerator.print(f"training by: {way}")
            args = way.applied_to(args, vocab_size=model.get_input_embeddings().num_embeddings)
            all_logits = way.shortcut == "none"
            need = estimate_memory(args, accelerator, config, examples, steps, all_logits=all_logits)
            check_memory(args, accelerator, need)
        loss = TargetLoss(model, way.shortcut)
        module, optimizer, scheduler = prepare(args, accelerator, loss, num_steps=len(steps))
        state = State(artifact.path, accelerator, arguments=artifact.arguments, inputs=artifact.input_hashes())

        state.on_main_process(state.start)

        def write_best(best: Path, weights: dict[str, Any]) -> None:
            model.save_pretrained(best, state_dict=weights)
            seal(best)

        def save_best(step: int) -> None:
            weights = trained_weights(accelerator, module)
            state.on_main_process(lambda: write_best(state.folder / f"best-{step}", weights))

        progress = fit(
            Run(args, accelerator, module, optimizer, scheduler, steps, examples, validation, state, save_best)
        )
        weights = trained_weights(accelerator, module)
        if folder is not None:
            best = state.folder / f"best-{progress.best_step}" if progress.best_step is not None else None
            save_model(model, weights, folder, base=base, merge=args.keep_weights != "lora", best=best)
            save_tokenizer_and_generation_config(tokenizer, folder)
            write_jsonl(folder / LOG_NAME, progress.log)
            facts.update(rows=len(examples), examples_cut=num_cut, **facts_of(progress))
            facts.update(num_processes=accelerator.num_processes, computed_by=str(way))
            facts.update(begins_with=begins_with(tokenizer))
            facts.update(base_model=args.model_name_or_path, best_step=progress.best_step)
            meta = {"identity": artifact.identity, "arguments": artifact.arguments, **facts, **provenance()}
            (folder / "README.md").write_text(model_card(meta, log=progress.log))
    if is_main:
        state.clear()
        print(f"wrote {artifact.path}")


def make_accelerator(args: Args, artifact: Artifact) -> Accelerator:
    """Processes, precision and trackers."""
    accelerator = Accelerator(
        # Without this, accelerate does not connect processes on CPUs: each would run alone.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=trackers(args, artifact) or None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=args.timeout_seconds))],
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UserError(f"{started} processes were started, and accelerate sees {accelerator.num_processes} of them")
    if started == 1 and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
        # An address is meant for several processes, which `accelerate launch --cpu` starts by mpirun only.
        print("accelerate launch --cpu started one process; for more add --config_file scripts/accelerate/cpu.yaml")
    config = {k: v if isinstance(v, int | float | bool) else str(v) for k, v in artifact.arguments.items()}
    accelerator.init_trackers(TRACKING_PROJECT, config=config)
    if accelerator.distributed_type == DistributedType.FSDP and args.half_precision:
        keep_float32_results(accelerator)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed reads these from a data loader or its own configuration file; there is neither.
        plugin: Any = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        plugin.deepspeed_config["gradient_clipping"] = args.max_grad_norm
    return accelerator


def keep_float32_results(accelerator: Accelerator) -> None:
    """Let FSDP compute in half precision, but return the loss and add gradients in float32, as a single device does."""
    plugin: Any = accelerator.state.fsdp_plugin
    policy, in_float32 = plugin.mixed_precision_policy, {"reduce_dtype": torch.float32}
    if plugin.fsdp_version == 2:
        in_float32["output_dtype"] = torch.float32
    plugin.mixed_precision_policy = replace(policy, **in_float32)


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


def estimate_memory(
    args: Args,
    accelerator: Accelerator,
    config: Any,
    examples: Examples,
    steps: list[list[int]],
    *,
    all_logits: bool = False,
) -> memory.MemoryEstimate:
    """The memory that the run needs on each device.

    config: of the model; all_logits: whether logits are computed at all positions, not at targets only
    """
    world = accelerator.num_processes
    num_tokens, num_targets, num_micro_batches = largest_micro_batch(
        examples.lengths, examples.num_targets, steps, args.micro_batch_limits, num_processes=world
    )
    with refused(Path(config.name_or_path), "its config.json", COPY_AGAIN):  # it may have odd sizes
        return memory.estimate(
            config,
            num_tokens=num_tokens,
            num_targets=num_tokens if all_logits else num_targets,
            gradients_remain=num_micro_batches > 1 or uses_graphs(args, config, accelerator),
            half_precision=args.half_precision,
            gradient_checkpointing=args.gradient_checkpointing,
            lora_rank=args.lora_rank if args.use_lora else None,
            num_shards=world if accelerator.distributed_type in SHARDED else 1,
        )


def check_memory(args: Args, accelerator: Accelerator, need: memory.MemoryEstimate) -> None:
    """Print the memory that the run needs and that is free.  Raises UserError if it cannot fit."""
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or accelerator.num_processes)
    free = memory.available_bytes(accelerator.device, num_local_processes=local_world)
    accelerator.print(f"memory: about {need}; {free / memory.GB:.3g} GB are free")
    if args.check_memory:
        memory.check_fits(need, free)


def trained_weights(accelerator: Accelerator, module: Any) -> dict[str, Any]:
    """Weights of the model inside TargetLoss, unsharded on the main process.  All processes call this."""
    weights: Any = accelerator.get_state_dict(module)
    return {name.removeprefix("model."): tensor for name, tensor in (weights or {}).items()}


def facts_of(progress: Progress) -> dict[str, Any]:
    """Entries of the sidecar."""
    steps = [line for line in progress.log if "loss" in line]
    validations = [line for line in progress.log if "validation_loss" in line]
    return {
        "tokens": progress.num_tokens,
        "final": steps[-1],
        **({"final_validation": validations[-1]} if validations else {}),
        "training_seconds": round(progress.seconds, 2),
        "sessions": progress.sessions,
    }
