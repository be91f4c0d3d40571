"""The model to fine-tune, loaded and checked; its low-rank adapters."""

from pathlib import Path
from typing import Any

from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import check_vocabulary, load_model, max_positions
from open_instruct.training.arguments import Args
from open_instruct.training.attention import PLAIN, WITHOUT_MASK
from open_instruct.training.loss import check_projection, last_mlp


def require_attention(config: Any) -> None:
    """Raise UserError for a model without attention, or whose attention transformers does not compute by torch's."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is not None and not model_class._supports_sdpa:
        raise UserError(
            f"{model_class.__name__} does not support torch's scaled_dot_product_attention in transformers, so "
            "finetune.py cannot train it; choose a model that does"
        )


def load_for_training(
    args: Args, folder: Path, config: Any, tokenizer: Any, *, without_mask: bool, is_sharded: bool
) -> Any:
    """The model in float32, with adapters and gradient checkpointing as `args` say.

    without_mask: prefer attention without a mask; packing needs it.
    is_sharded: DeepSpeed has partitioned the weights already, so no forward pass is possible here.
    Raises UserError where the losses of such batches would not be the model's.
    """
    model = load_model(folder, config=config, attn_implementation=PLAIN)
    check_vocabulary(model, tokenizer)
    if args.packing or without_mask:
        model.set_attn_implementation(WITHOUT_MASK)
    if not is_sharded:
        choose_attention(model, packing=args.packing)
    if args.use_lora:
        model = add_adapters(model, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def require_positions(config: Any, *, longest: int) -> None:
    """Raise UserError where an example is longer than the model takes.  longest: tokens"""
    num_positions = max_positions(config)
    # The last token is a target but no input.
    if num_positions is not None and longest - 1 > num_positions:
        raise UserError(
            f"an example has {longest} tokens, and the model takes {num_positions}; cut examples by "
            f"--max_seq_length {num_positions}"
        )


def choose_attention(model: Any, *, packing: bool) -> None:
    """Leave the model its attention, or give it back its own one where losses differ.  Raises UserError if all do."""
    try:
        check_projection(model, packing=packing)
    except UserError:
        if packing or model.config._attn_implementation == PLAIN:
            raise
        model.set_attn_implementation(PLAIN)
        check_projection(model, packing=packing)


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


def add_adapters(model: Any, *, rank: int, alpha: float, dropout: float) -> Any:
    """Add low-rank adapters to all linear layers but the head; only they are trained."""
    from peft import LoraConfig, get_peft_model

    scale: Any = alpha  # peft takes fractions, which its hint does not say
    config = LoraConfig(
        r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)
