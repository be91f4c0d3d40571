"""Convert the options of an OLMo checkpoint to the configuration of the converted model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from open_instruct.common.errors import UserError
from open_instruct.common.yaml_files import load_yaml
from open_instruct.olmo_hf.weights import Target

if TYPE_CHECKING:
    from olmo.config import ModelConfig

TRANSFORMERS_KEYS = {
    *PreTrainedConfig().to_dict(),
    *("architectures", "auto_map", "model_type", "torch_dtype", "transformers_version", "use_cache", "_name_or_path"),
    *("tie_word_embeddings", "return_dict", "output_hidden_states", "output_attentions"),
}
"""Keys that transformers adds to every config.json."""


def read_native_config(path: Path) -> "ModelConfig":
    """OLMo's options, from the section `model` of config.yaml or from the config.json of the package hf_olmo.

    Raises UserError for unknown options and invalid values.
    """
    # The ai2-olmo package and what comes with it.
    from olmo.config import ModelConfig
    from olmo.exceptions import OLMoError
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        raw = load_yaml(path)
        section = raw.get("model") if isinstance(raw, dict) and path.suffix == ".yaml" else raw
        if not isinstance(section, dict):
            raise UserError(f"{path}: expected a section `model` with OLMo's model options; download it again")
        if path.suffix == ".json":
            foreign = TRANSFORMERS_KEYS - {field.name for field in dataclasses.fields(ModelConfig)}
            section = {name: value for name, value in section.items() if name not in foreign}
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), section))
        assert isinstance(config, ModelConfig)
        check_sizes(config, path)
        return config
    except (OmegaConfBaseException, OLMoError) as error:
        raise UserError(f"{path}: not a valid model config of OLMo: {' '.join(str(error).split())}") from error


def check_sizes(config: "ModelConfig", path: Path) -> None:
    """Raises UserError that names every impossible size."""
    pairs = (
        ("d_model", config.d_model, "n_heads", config.n_heads),
        ("n_heads", config.n_heads, "n_kv_heads", config.effective_n_kv_heads),
        ("n_layers", config.n_layers, "block_group_size", config.block_group_size),
    )
    problems = [f"{a} {m} is not a multiple of {b} {n}" for a, m, b, n in pairs if n < 1 or m % n]
    if not problems and config.d_model // config.n_heads % 2:
        problems.append(f"heads of size {config.d_model // config.n_heads} are odd, rotary positions need an even size")
    if (config.embedding_size or config.vocab_size) < config.vocab_size:
        problems.append(f"embedding_size {config.embedding_size} is less than vocab_size {config.vocab_size}")
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; download the checkpoint again")


def target_config(
    native: "ModelConfig", target: Target, tokenizer: PreTrainedTokenizerFast, dtype: str
) -> PreTrainedConfig:
    """The configuration of the converted model; EOS and pad are the tokenizer's."""
    specific: dict[str, Any] = (
        {"clip_qkv": native.clip_qkv} if target.model_type == "olmo" else {"rms_norm_eps": native.layer_norm_eps}
    )
    return AutoConfig.for_model(
        target.model_type,
        architectures=[target.architecture],
        dtype=dtype,
        vocab_size=native.embedding_size or native.vocab_size,
        hidden_size=native.d_model,
        # OLMo's size includes both halves of the SwiGLU.
        intermediate_size=(native.mlp_hidden_size or native.mlp_ratio * native.d_model) // 2,
        num_hidden_layers=native.n_layers,
        num_attention_heads=native.n_heads,
        num_key_value_heads=native.effective_n_kv_heads,
        max_position_embeddings=native.max_sequence_length,
        rope_parameters={"rope_type": "default", "rope_theta": float(native.rope_theta)},
        attention_bias=False,
        attention_dropout=native.attention_dropout,
        tie_word_embeddings=native.weight_tying,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **specific,
    )


def training_only_options(native: "ModelConfig") -> dict[str, float]:
    """Print and return the dropout options that are dropped: they affect training only and have no counterpart."""
    options = {name: getattr(native, name) for name in ("residual_dropout", "embedding_dropout")}
    dropped = {name: value for name, value in options.items() if value != 0.0}
    for name, value in dropped.items():
        print(f"note: {name} {value} has no counterpart in transformers; fine-tuning will not use it")
    return dropped
