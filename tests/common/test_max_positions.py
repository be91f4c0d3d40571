"""Number of tokens that a model takes, by what its config.json calls it."""

import pytest
from transformers import CONFIG_MAPPING

from open_instruct.common.model_loading import max_positions

SETTINGS = {
    "olmo": {"max_position_embeddings": 64},
    "gpt2": {"n_positions": 64},
    "mpt": {"max_seq_len": 64},
    "rwkv": {"context_length": 64},
    "whisper": {"max_target_positions": 64},
    "kimi_linear": {"model_max_length": 64},
    "gemma3": {"text_config": {"max_position_embeddings": 64}},
    "roberta": {"max_position_embeddings": 66, "pad_token_id": 1},
}


@pytest.mark.parametrize("model_type", SETTINGS)
def test_each_name_of_the_positions_is_read(model_type):
    assert max_positions(CONFIG_MAPPING[model_type](**SETTINGS[model_type])) == 64


@pytest.mark.parametrize("model_type", ["mamba", "bloom", "xlnet", "recurrent_gemma"])
def test_architectures_without_a_limit_have_none(model_type):
    assert max_positions(CONFIG_MAPPING[model_type]()) is None
