"""The four ways to predict a label, each against its definition; free generation with vLLM."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from toy_evaluation import RTE, load_toy, log_prob, read_records, run_predict, write_evaluation

from eval import eval_pred, predict
from eval.metrics.metrics_file import load_metrics
from eval.prediction import label_scoring, requests
from eval.prediction.label_parsing import label_in
from eval.prediction.requests import EncodedItem
from open_instruct.common.errors import UserError
from open_instruct.common.paths import metrics_file
from open_instruct.common.sidecars import read_sidecar

LABELS = ("entailment", "neutral")


def test_constrained_greedy_decoding_generates_labels_only(home):
    model, tokenizer = load_toy(home)
    predictions = read_records(run_predict(home, "rte", constraint_type="constraint"))
    for (_, prompt, _), found in zip(RTE, predictions, strict=True):
        context = tokenizer(prompt)["input_ids"]
        ends = {(*tokenizer(f" {label}")["input_ids"], tokenizer.eos_token_id): label for label in LABELS}
        generated: list[int] = []
        while tuple(generated) not in ends:
            with torch.no_grad():
                logits = model(torch.tensor([context + generated])).logits[0, -1]
            allowed = {ids[len(generated)] for ids in ends if list(ids[: len(generated)]) == generated}
            generated.append(max(allowed, key=lambda token: logits[token].item()))
        assert found["output"] == ends[tuple(generated)]
        assert found["scores"][LABELS[0]] == pytest.approx(
            log_prob(model, context, tokenizer(" entailment")["input_ids"]), abs=1e-3
        )


def test_constrained_greedy_decoding_can_differ_from_the_most_likely_label(monkeypatch):
    # Token 1 is more likely than 2, but its continuation is unlikely; EOS is 9.
    by_sequence = {(1,): -0.5, (1, 3): -9.0, (1, 3, 9): -9.5, (2,): -1.0, (2, 9): -1.5}

    def likelihoods(model, items):
        return [[by_sequence[tuple(ids)] for ids in item.continuations] for item in items]

    monkeypatch.setattr(requests, "log_likelihoods", likelihoods)
    model: Any = None
    item = EncodedItem([0], [[1, 3], [2]], gold=1)
    [greedy] = label_scoring.constrained_greedy_decoding(model, [item], ["a b", "c"], 9)
    [whole] = label_scoring.most_likely(model, [item], ["a b", "c"])
    assert (greedy["output"], whole["output"]) == ("a b", "c")
    assert greedy["scores"] == whole["scores"] == {"a b": -9.0, "c": -1.0}
    assert greedy["gold_logprob"] == -1.0


def test_eos_ends_a_label_that_is_a_prefix_of_another():
    assert label_scoring.label_prefixes([[1], [1, 2]], 9) == [(1,), (1, 9), (1, 2), (1, 2, 9)]


def test_next_word_is_available_under_the_corrected_protocol(home):
    path = run_predict(home, "rte", constraint_type="next_word")
    model, tokenizer = load_toy(home)
    for (_, prompt, _), found in zip(RTE, read_records(path), strict=True):
        context = tokenizer(prompt)["input_ids"]
        for label in LABELS:
            tokens = {token for text in (label, f" {label}") for token in tokenizer(text)["input_ids"]}
            expected = max(log_prob(model, context, [token]) for token in tokens)
            assert found["scores"][label] == pytest.approx(expected, abs=1e-3)
    assert read_sidecar(path)["arguments"]["constraint_type"] == "next_word"


def test_whole_labels_are_available_under_the_papers_protocol(home):
    rows = [(name, f"{prompt} ", completion.strip()) for name, prompt, completion in RTE]
    write_evaluation(home / "paper.jsonl", rows, protocol="paper")
    model, tokenizer = load_toy(home)
    predictions = read_records(run_predict(home, "paper", constraint_type="label"))
    for (_, prompt, _), found in zip(rows, predictions, strict=True):
        context = tokenizer(prompt)["input_ids"]
        expected = {label: log_prob(model, context, tokenizer(label)["input_ids"]) for label in LABELS}
        assert found["scores"] == pytest.approx(expected, abs=1e-3)
        assert found["output"] == max(expected, key=expected.__getitem__)


def test_free_generations_are_recorded_beside_the_label_scores(home):
    path = run_predict(home, "rte", constraint_type="none")
    plain = {record["id"]: record for record in read_records(path)}
    assert all(set(record["scores"]) == set(LABELS) and record["text"] for record in plain.values())
    sidecar = read_sidecar(path)
    assert sidecar["arguments"]["max_new_tokens"] == 5
    assert sidecar["num_unfinished"] == sum(not record["finished"] for record in plain.values())
    eval_pred.main(eval_pred.Args(input_files=(path,)))
    metrics = load_metrics(metrics_file(path)).metrics
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
def test_label_is_parsed_from_a_generation(text, parse_order, output):
    assert label_in(text, LABELS, parse_order) == output


def test_vllm_gets_the_same_prompts_and_settings(home, monkeypatch):
    """A stand-in for vLLM decodes greedily; settings, end of generation and order are compared with generation.py."""
    expected = [(r["output"], r["finished"]) for r in read_records(run_predict(home, "sciq", stop_at_newline=True))]
    model, tokenizer = load_toy(home)
    built: dict[str, Any] = {}

    class LLM:
        def __init__(self, **settings):
            built.update(settings)

        def generate(self, prompts, params, *, use_tqdm):
            return [self.decode(prompt.prompt_token_ids, each) for prompt, each in zip(prompts, params, strict=True)]

        def decode(self, ids, params):
            assert params.temperature == 0.0
            generated: list[int] = []
            while len(generated) < params.max_tokens and not (generated and generated[-1] in params.stop_token_ids):
                with torch.no_grad():
                    generated.append(int(model(torch.tensor([ids + generated])).logits[0, -1].argmax()))
            reason = "stop" if generated[-1] in params.stop_token_ids else "length"
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(generated), finish_reason=reason)])

    module: Any = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM = LLM
    module.SamplingParams = module.TokensPrompt = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    path = run_predict(home, "sciq", stop_at_newline=True, use_vllm=True, overwrite=True)
    assert [(r["output"], r["finished"]) for r in read_records(path)] == expected
    assert built["model"] == str(home / "model")
    assert (built["dtype"], built["max_model_len"]) == ("float32", 256)
    assert tokenizer.eos_token_id is not None
    assert read_sidecar(path)["arguments"]["use_vllm"] is True


@pytest.mark.parametrize("eval_set", ["sciq", "rte"])
def test_use_vllm_without_vllm_is_refused_wherever_it_is_given(home, monkeypatch, eval_set):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="--use_vllm: not installed"):
        run_predict(home, eval_set, use_vllm=True)


def test_the_longer_of_two_labels_wins_where_the_shorter_does_not_end(home, monkeypatch):
    labels = ("cat", "cat sat")
    model, tokenizer = load_toy(home)
    shorter, longer = (tokenizer(f" {label}")["input_ids"] for label in labels)
    assert longer[: len(shorter)] == shorter
    rows = [(name, prompt, f" {labels[i % 2]}") for i, (name, prompt, _) in enumerate(RTE)]
    write_evaluation(home / "rte.jsonl", rows)
    monkeypatch.setattr(predict, "label_texts", lambda *_: (labels, labels))
    for constraint in ("label", "constraint"):
        path = run_predict(home, "rte", constraint_type=constraint, overwrite=True)
        for (_, prompt, completion), found in zip(rows, read_records(path), strict=True):
            context = tokenizer(prompt)["input_ids"]
            ends = [tokenizer.eos_token_id]
            scores = {label: log_prob(model, context, tokenizer(f" {label}")["input_ids"] + ends) for label in labels}
            assert found["scores"] == pytest.approx(scores, abs=1e-3)
            assert found["gold_logprob"] == pytest.approx(
                log_prob(model, context, tokenizer(completion)["input_ids"]), abs=1e-3
            )
    item = label_scoring.with_ends(tokenizer, EncodedItem([1], [[5, 6], [5], [7]], gold=1), 3)
    eos = tokenizer.eos_token_id
    assert item == EncodedItem([1], [[5, 6, eos], [5, eos], [7, eos], [5]], gold=3)
    unchanged = EncodedItem([1], [[5, 6], [6], [7]], gold=1)
    assert label_scoring.with_ends(tokenizer, unchanged, 3) is unchanged


def test_next_word_refuses_a_label_whose_sub_tokens_are_all_of_another(home):
    _, tokenizer = load_toy(home)
    with pytest.raises(UserError, match=r"every sub-token of the label 'cat' is one of 'cat sat' too.*type label"):
        label_scoring.sub_tokens(tokenizer, ["cat", "cat sat"])


def test_the_longest_label_that_a_generation_begins_with_counts():
    assert label_in("yes and no, for", ("yes", "yes and no")) == "yes and no"
    assert label_in("yes and", ("yes", "yes and no")) == "yes"
