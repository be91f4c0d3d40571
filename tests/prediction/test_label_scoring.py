"""The four ways to choose a label, each against its definition, and what is refused."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from toy_evaluation import RTE, ask, loaded, log_prob, read, write_evaluation

from eval import eval_pred
from eval.prediction import label_scoring, requests
from eval.prediction.requests import Question
from open_instruct.common.artifacts import read_sidecar
from open_instruct.common.errors import UserError

LABELS = ("entailment", "neutral")


def test_greedy_decoding_may_write_labels_only(home):
    model, tokenizer = loaded(home)
    for (_, prompt, _), found in zip(RTE, read(ask(home, "rte", constraint_type="constraint")), strict=True):
        context = tokenizer(prompt)["input_ids"]
        ends = {(*tokenizer(f" {label}")["input_ids"], tokenizer.eos_token_id): label for label in LABELS}
        written: list[int] = []
        while tuple(written) not in ends:
            with torch.no_grad():
                logits = model(torch.tensor([context + written])).logits[0, -1]
            allowed = {ids[len(written)] for ids in ends if list(ids[: len(written)]) == written}
            written.append(max(allowed, key=lambda token: logits[token].item()))
        assert found["output"] == ends[tuple(written)]
        assert found["scores"][LABELS[0]] == pytest.approx(
            log_prob(model, context, tokenizer(" entailment")["input_ids"]), abs=1e-3
        )


def test_greedy_decoding_is_not_the_likeliest_label(monkeypatch):
    # Token 1 is likelier than 2, but what goes on with 1 is not likely; EOS is 9.
    of_text = {(1,): -0.5, (1, 3): -9.0, (1, 3, 9): -9.5, (2,): -1.0, (2, 9): -1.5}

    def likelihoods(model, questions):
        return [[of_text[tuple(ids)] for ids in question.continuations] for question in questions]

    monkeypatch.setattr(requests, "log_likelihoods", likelihoods)
    model: Any = None
    question = Question([0], [0], [[1, 3], [2]], gold=1)
    [greedy] = label_scoring.choose_by_greedy_decoding(model, [question], ["a b", "c"], 9)
    [whole] = label_scoring.choose_labels(model, [question], ["a b", "c"])
    assert (greedy["output"], whole["output"]) == ("a b", "c")
    assert greedy["scores"] == whole["scores"] == {"a b": -9.0, "c": -1.0}
    assert greedy["gold_logprob"] == -1.0


def test_a_label_that_begins_another_is_ended_by_eos():
    assert label_scoring.beginnings_of([[1], [1, 2]], 9) == [(1,), (1, 9), (1, 2), (1, 2, 9)]


def test_next_words_can_be_asked_of_any_protocol(home):
    path = ask(home, "rte", constraint_type="next_word")
    model, tokenizer = loaded(home)
    for (_, prompt, _), found in zip(RTE, read(path), strict=True):
        context = tokenizer(prompt)["input_ids"]
        for label in LABELS:
            tokens = {token for text in (label, f" {label}") for token in tokenizer(text)["input_ids"]}
            likeliest = max(log_prob(model, context, [token]) for token in tokens)
            assert found["scores"][label] == pytest.approx(likeliest, abs=1e-3)
    assert read_sidecar(path)["arguments"]["constraint_type"] == "next_word"


def test_whole_labels_can_be_asked_under_the_papers_protocol(home):
    rows = [(name, f"{prompt} ", completion.strip()) for name, prompt, completion in RTE]
    write_evaluation(home / "paper.jsonl", rows, protocol="paper")
    model, tokenizer = loaded(home)
    for (_, prompt, _), found in zip(rows, read(ask(home, "paper", constraint_type="label")), strict=True):
        context = tokenizer(prompt)["input_ids"]
        expected = {label: log_prob(model, context, tokenizer(label)["input_ids"]) for label in LABELS}
        assert found["scores"] == pytest.approx(expected, abs=1e-3)
        assert found["output"] == max(expected, key=expected.__getitem__)


def test_what_is_written_freely_is_scored_and_kept(home):
    path = ask(home, "rte", constraint_type="none")
    plain = {record["id"]: record for record in read(path)}
    assert all(set(record["scores"]) == set(LABELS) and record["text"] for record in plain.values())
    sidecar = read_sidecar(path)
    assert sidecar["arguments"]["max_new_tokens"] == 5
    assert sidecar["num_unfinished"] == sum(not record["finished"] for record in plain.values())
    eval_pred.main(eval_pred.Args(input_files=(path,)))
    metrics = eval_pred.load_metrics(eval_pred.metrics_file(path)).metrics
    right = [record["output"] == record["completion"].strip() for record in plain.values()]
    assert metrics["accuracy"].mean == sum(right) / len(right)
    assert metrics["finished"].n == 6


@pytest.mark.parametrize(
    ("text", "parse_order", "output"),
    [
        ("neutral. Because", (), "neutral"),
        ("neutrality", (), "neutrality"),
        ("It is neutral", (), "It is neutral"),
        ("not neutral but entailment", ("contradiction", "neutral", "entailment"), "neutral"),
        ("a contradiction", ("contradiction", "neutral", "entailment"), "contradiction"),
    ],
)
def test_the_label_in_a_text(text, parse_order, output):
    read_ = label_scoring.read_label({"output": text, "finished": True}, LABELS, parse_order)
    assert read_ == {"output": output, "text": text, "finished": True}


def test_vllm_is_asked_for_the_same_texts(home, monkeypatch):
    """With an engine in its place that writes what generation.py writes: settings, endings and order are looked at."""
    plain = [(record["output"], record["finished"]) for record in read(ask(home, "sciq", stop_at_newline=True))]
    model, tokenizer = loaded(home)
    built: dict[str, Any] = {}

    class LLM:
        def __init__(self, **settings):
            built.update(settings)

        def generate(self, prompts, params, *, use_tqdm):
            return [self.write(prompt.prompt_token_ids, each) for prompt, each in zip(prompts, params, strict=True)]

        def write(self, ids, params):
            assert params.temperature == 0.0
            written: list[int] = []
            while len(written) < params.max_tokens and not (written and written[-1] in params.stop_token_ids):
                with torch.no_grad():
                    written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
            reason = "stop" if written[-1] in params.stop_token_ids else "length"
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(written), finish_reason=reason)])

    module: Any = ModuleType("vllm")
    module.LLM = LLM
    module.SamplingParams = module.TokensPrompt = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    path = ask(home, "sciq", stop_at_newline=True, use_vllm=True, overwrite=True)
    assert [(record["output"], record["finished"]) for record in read(path)] == plain
    assert built["model"] == str(home / "model")
    assert (built["dtype"], built["max_model_len"]) == ("float32", 256)
    assert tokenizer.eos_token_id is not None
    assert read_sidecar(path)["arguments"]["use_vllm"] is True


def test_without_vllm_the_option_is_refused_and_labels_do_not_need_it(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="vLLM is not installed"):
        ask(home, "sciq", use_vllm=True)
    assert len(read(ask(home, "rte", use_vllm=True))) == 6
