"""Models that set no limit on the number of tokens: long prompts are taken, plain text has windows."""

import torch
from toy_evaluation import log_prob, read_records, write_evaluation
from toy_models import toy_tokenizer
from transformers import AutoModelForCausalLM, MambaConfig

from eval import predict
from eval.prediction import requests

PROMPT = "The cat sat on the mat. " * 60


def test_a_model_without_positions_is_predicted(tmp_path, monkeypatch):
    tokenizer = toy_tokenizer(tmp_path / "model")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MambaConfig(**sizes, **ids)).eval()
    model.save_pretrained(tmp_path / "model")
    write_evaluation(tmp_path / "sciq.jsonl", [("sciq", PROMPT.strip(), " Why did it sit?")])
    write_evaluation(tmp_path / "heldout_text.jsonl", [("heldout_text", "", "The cat sat on the mat.")])
    monkeypatch.setattr(requests, "WINDOW_TOKENS", 5)
    files = (tmp_path / "sciq.jsonl", tmp_path / "heldout_text.jsonl")
    written = predict.predict_files(predict.Args(str(tmp_path / "model"), files, max_new_tokens=2))
    [answer], [text] = map(read_records, written)
    context, continuation = (tokenizer(part)["input_ids"] for part in (PROMPT.strip(), " Why did it sit?"))
    assert abs(answer["gold_logprob"] - log_prob(model, context, continuation)) < 1e-3
    tokens = tokenizer("The cat sat on the mat.")["input_ids"]
    assert text["num_windows"] == -(-len(tokens) // 4)
