"""Scores of continuations, and the metrics computed from them."""

import dataclasses
import math

import pytest
import torch
from ranking_vs_catwalk import differing_instances, reference_model
from toy_evaluation import log_prob
from toy_models import toy_olmo, toy_tokenizer
from toy_tokenizers import save_tokenizer
from transformers import AutoTokenizer, OlmoForCausalLM

from eval.prediction.model_loading import longest_input
from olmo_eval.instances import Instance, load_instances
from olmo_eval.ranked_task import Item
from olmo_eval.ranking import Prediction, encode_options, predict, summarise
from olmo_eval.tasks import TASKS
from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import load_tokenizer
from open_instruct.data.encode import encode_messages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "toy"
    toy_olmo(path)
    return path


def test_a_random_model_has_the_accuracies_of_the_reference_pipeline():
    assert differing_instances("arc_challenge", reference_model()) <= 1


def test_scores_equal_one_forward_pass_per_continuation(folder):
    model, tokenizer = OlmoForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    instances = load_instances(TASKS["arc_challenge"], limit=3, num_shots=1) + load_instances(
        TASKS["winogrande"], limit=2
    )
    predictions = predict(model, tokenizer, instances, unconditioned="Answer:", max_length=100, max_batch_tokens=500)
    assert {bool(prediction.num_truncated) for prediction in predictions} == {True, False}
    for instance, prediction in zip(instances, predictions, strict=True):
        parts = zip(instance.item.contexts, instance.item.continuations, prediction.outputs, strict=True)
        for context, continuation, output in parts:
            ids = tokenizer(continuation)["input_ids"]
            for before, key in ((context, "sum_logits"), ("Answer:", "sum_logits_uncond")):
                kept = (tokenizer(before)["input_ids"] + ids)[-101:]
                with torch.no_grad():
                    log_probs = model(torch.tensor([kept[:-1]])).logits[0].log_softmax(-1)[-len(ids) :]
                expected = sum(row[token].item() for row, token in zip(log_probs, ids, strict=True))
                assert output[key] == pytest.approx(expected, abs=1e-3)
            assert output["num_tokens"] == len(ids)


def output(sum_logits, *, num_tokens=1, num_chars=2, uncond=0.0):
    counts = {"num_tokens": num_tokens, "num_tokens_all": num_tokens + 3, "num_chars": num_chars, "is_greedy": False}
    return {"sum_logits": sum_logits, "sum_logits_uncond": uncond} | counts


def test_each_score_predicts_by_its_own_rule_and_the_first_of_equals():
    outputs = [
        output(-4.0, num_tokens=4, num_chars=4, uncond=-5.0),  # per token -1, per char -1, uncond 1
        output(-3.0, num_tokens=1, num_chars=6, uncond=-3.0),  # per token -3, per char -0.5, uncond 0
        output(-3.0, num_tokens=1, num_chars=2, uncond=-9.0),  # per token -3, per char -1.5, uncond 6
    ]
    predicted = Prediction(Instance({}, Item([], [], 0)), outputs, 0).predicted_indices()
    assert predicted == {"raw": 1, "per_token": 0, "per_char": 1, "uncond": 2}


def test_metrics_of_two_instances_equal_hand_computed_values():
    right = [output(-math.log(2)), output(-math.log(4))]
    item = Item(["Q"] * 2, [" é", " b"], 0)  # " é" is three bytes
    wrong = dataclasses.replace(item, gold=1)
    predictions = [Prediction(Instance({}, item), right, 1), Prediction(Instance({}, wrong), right, 0)]
    metrics = summarise(predictions, primary="raw")
    assert (metrics["acc_raw"], metrics["acc"], metrics["primary_metric"]) == (0.5, 0.5, "acc_raw")
    assert metrics["predicted_indices_raw"] == [[0, 1.0]]
    assert metrics["avg_total_probability_mass"] == pytest.approx(0.75)
    assert (metrics["total_token_count"], metrics["max_token_count"]) == (16, 4)
    # one bit over three bytes and two bits over two
    assert (metrics["bits_per_byte"], metrics["gold_bytes"]) == (pytest.approx(3 / 5), 5)
    assert metrics["standard_errors"]["acc"] == pytest.approx(0.5)
    assert metrics["num_truncated_contexts"] == 1


def test_an_accuracy_of_zero_is_reported():
    prediction = Prediction(Instance({}, Item(["Q"] * 2, [" a", " b"], 1)), [output(-1.0), output(-2.0)], 0)
    metrics = summarise([prediction], primary="uncond")
    assert (metrics["acc_uncond"], metrics["acc"], metrics["standard_errors"]["acc"]) == (0.0, 0.0, None)


def test_chat_format_has_the_token_ids_of_fine_tuning(tmp_path):
    tokenizer = toy_tokenizer(tmp_path)
    [instance] = load_instances(TASKS["copa"], limit=1, use_chat_format=True)
    [options] = encode_options(tokenizer, [instance], max_length=1000)
    [plain] = load_instances(TASKS["copa"], limit=1)
    for option, answer in zip(options, plain.item.continuations, strict=True):
        turns = [{"role": "user", "content": plain.item.contexts[0]}, {"role": "assistant", "content": answer}]
        trained = encode_messages(tokenizer, turns)
        assert option.context + option.continuation == trained.ids[: len(option.context) + len(option.continuation)]
        targets = [token for token, label in zip(trained.ids, trained.labels, strict=True) if label == token]
        assert option.continuation == targets[:-1]  # then comes EOS


def test_longest_input_is_the_smallest_known_limit(folder):
    model, tokenizer = OlmoForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert longest_input(model, tokenizer, None) == 128
    assert longest_input(model, tokenizer, 7) == 7
    with pytest.raises(UserError, match="--max_seq_length is 129; expected 1 to 128"):
        longest_input(model, tokenizer, 129)


def test_a_space_that_the_tokenizer_adds_is_in_no_continuation(tmp_path):
    save_tokenizer(tmp_path, "SentencePiece BPE, Prepend and Replace (Llama 2)", begins=True)
    tokenizer = load_tokenizer(tmp_path)
    context, texts = "Question: Who?\nAnswer:", [" yes", " Jordan did"]
    [options] = encode_options(tokenizer, [Instance({}, Item([context] * 2, texts, 0))], max_length=100)
    for option, text in zip(options, texts, strict=True):
        assert [*option.context, *option.continuation] == tokenizer(context + text)["input_ids"]
        assert option.continuation == tokenizer(text.strip(), add_special_tokens=False)["input_ids"]


def test_contexts_begin_with_bos_also_where_they_are_truncated_or_unconditioned(tmp_path):
    toy_olmo(tmp_path, vocab_size=500)
    save_tokenizer(tmp_path, "byte-level BPE (GPT-2, OLMo)", begins=True)
    model, tokenizer = OlmoForCausalLM.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    instance = Instance({}, Item(["Question: Who went home early?\nAnswer:"], [" Jordan did"], 0))
    for max_length in (100, 12):
        [found] = predict(
            model, tokenizer, [instance], unconditioned="Answer:", max_length=max_length, max_batch_tokens=100
        )
        ids = tokenizer(" Jordan did", add_special_tokens=False)["input_ids"]
        whole = tokenizer(instance.item.contexts[0])["input_ids"]
        room = max_length + 1 - len(ids)
        assert (len(whole) > room) == bool(found.num_truncated) == (max_length == 12)
        contexts = {"sum_logits": whole if len(whole) <= room else [whole[0], *whole[1 - room :]]}
        for key, context in (contexts | {"sum_logits_uncond": tokenizer("Answer:")["input_ids"]}).items():
            assert context[0] == tokenizer.bos_token_id
            assert found.outputs[0][key] == pytest.approx(log_prob(model, context, ids), abs=1e-3)


def test_only_the_continuation_of_greedy_decoding_is_greedy(folder):
    model, tokenizer = OlmoForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def most_likely(context):
        with torch.no_grad():
            return int(model(torch.tensor([tokenizer(context)["input_ids"]])).logits[0, -1].argmax())

    # A context whose most likely next token is decoded to valid text, not to a part of a character.
    contexts = (f"Question: {number}" for number in range(1000))
    context = next(c for c in contexts if tokenizer(tokenizer.decode(most_likely(c)))["input_ids"] == [most_likely(c)])
    text = tokenizer.decode(most_likely(context))
    instance = Instance({}, Item([context] * 2, [text, text + "xyz"], 0))
    [prediction] = predict(model, tokenizer, [instance], unconditioned=None, max_length=100, max_batch_tokens=100)
    assert [output["is_greedy"] for output in prediction.outputs] == [True, False]
