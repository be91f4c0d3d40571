"""The model to fine-tune, loaded and checked."""

from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import check_vocabulary, load_model, max_positions
from open_instruct.training.adapters import add_adapters
from open_instruct.training.arguments import Args
from open_instruct.training.loss import last_mlp
from open_instruct.training.ways import Way, choose_way, unchecked_way


def load_for_training(
    args: Args, folder: Path, config: Any, tokenizer: Any, *, longest: int, on_gpu: bool, is_sharded: bool
) -> tuple[Any, Way]:
    """The model in float32, with adapters and gradient checkpointing as `args` say, and how its loss is computed.

    longest: tokens of an example; is_sharded: DeepSpeed has partitioned the weights already, so no forward pass is
    possible here.
    Raises UserError where there is no right way to compute its loss.
    """
    model = load_model(folder, config=config)
    require_saved_type(model)
    check_vocabulary(model, tokenizer)
    if is_sharded:
        way = unchecked_way(model, packing=args.packing)
    else:
        way = choose_way(model, packing=args.packing, prefers_no_mask=on_gpu, longest=longest)
    set_seed(args.seed)  # here, for the forward passes above may draw random numbers
    if args.use_lora:
        model = add_adapters(model, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, way


def require_saved_type(model: Any) -> None:
    """Raise UserError for a model that transformers could not load again once its parts for images are left out."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{type(model).__name__} would be saved as type {model.config.model_type}, which transformers does not "
            "load as a causal language model, so finetune.py cannot train it; choose another model"
        )


def require_positions(config: Any, *, longest: int) -> None:
    """Raise UserError where an example is longer than the model takes.  longest: tokens"""
    num_positions = max_positions(config)
    # The last token is a target but no input.
    if num_positions is not None and longest - 1 > num_positions:
        raise UserError(
            f"an example has {longest} tokens, and the model takes {num_positions}; cut examples by "
            f"--max_seq_length {num_positions}"
        )


def compile_layers(language_model: Any) -> None:
    """Compile the decoder layers in place: they have the same code, so that it is compiled once.

    Raises UserError where the model has none by the usual name.
    """
    layers = getattr(language_model.base_model, "layers", None)
    if layers is None:
        raise UserError(f"--torch_compile: {type(language_model).__name__} has no list of layers; leave it out")
    # In the last one the loss changes the MLP for every batch.
    for layer in layers if last_mlp(language_model) is None else layers[:-1]:
        layer.compile(dynamic=True)
