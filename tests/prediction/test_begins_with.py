"""BOS, where the tokenizer or --add_bos_token puts it, begins every example, prompt and window; sidecars say so."""

from dataclasses import replace

import pytest
from toy_evaluation import RTE, TEXT, log_prob, read_records, run_predict, write_evaluation
from toy_models import toy_olmo
from toy_tokenizers import save_tokenizer
from toy_training import output_of, toy_training
from transformers import AutoTokenizer, OlmoForCausalLM

from eval import predict
from olmo_eval import run_lm_eval
from open_instruct import finetune
from open_instruct.common import paths
from open_instruct.common.sidecars import read_sidecar

KIND = "byte-level BPE (GPT-2, OLMo)"


@pytest.fixture
def with_bos(home):
    """`home` with a model of short texts whose tokenizer begins them with BOS."""
    toy_olmo(home / "model", initializer_range=0.3, vocab_size=500, max_position_embeddings=64)
    save_tokenizer(home / "model", KIND, begins=True)
    return home


def load(home):
    return OlmoForCausalLM.from_pretrained(home / "model").eval(), AutoTokenizer.from_pretrained(home / "model")


@pytest.mark.parametrize("chosen", [None, "false"])
def test_prompts_labels_and_windows_begin_with_bos(with_bos, chosen):
    long = ("heldout_text", "", "The cat sat on the mat, and the dog sat on the cat. " * 8)
    write_evaluation(with_bos / "heldout_text.jsonl", [*TEXT, long])
    model, tokenizer = load(with_bos)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    first = [tokenizer.bos_token_id] if chosen is None else []
    path = run_predict(with_bos, "rte", add_bos_token=chosen)
    for (_, prompt, _), found in zip(RTE, read_records(path), strict=True):
        expected = {label: log_prob(model, [*first, *ids(prompt)], ids(f" {label}")) for label in found["scores"]}
        assert found["scores"] == pytest.approx(expected, abs=1e-3)
    assert read_sidecar(path)["begins_with"] == (["<|begin|>"] if chosen is None else [])
    assert path.stem.endswith("_promptbosfalse") == (chosen is not None)
    # A sidecar without the option has the arguments of before there was one.
    assert read_sidecar(path)["arguments"].get("add_bos_token", "none") == (chosen or "none")

    *_, whole = read_records(run_predict(with_bos, "heldout_text", add_bos_token=chosen))
    context, text = first or [tokenizer.eos_token_id], ids(long[2])
    windows = [text[start : start + 63] for start in range(0, len(text), 63)]
    assert whole["num_windows"] == len(windows) > 1
    expected = sum(log_prob(model, context, window) for window in windows)
    assert whole["gold_logprob"] == pytest.approx(expected, abs=1e-3)


def test_a_truncated_prompt_keeps_bos(with_bos):
    long = ("rte", RTE[0][1] + " The cat sat on the mat." * 20, RTE[0][2])
    write_evaluation(with_bos / "rte.jsonl", [long, *RTE])
    model, tokenizer = load(with_bos)
    found = read_records(run_predict(with_bos, "rte", truncate_left=True))[0]
    labels = {label: tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in found["scores"]}
    first, *rest = tokenizer(long[1])["input_ids"]
    context = [first, *rest[-(63 - max(map(len, labels.values()))) :]]
    expected = {label: log_prob(model, context, ids) for label, ids in labels.items()}
    assert found["scores"] == pytest.approx(expected, abs=1e-3)


def test_ranked_classification_says_what_begins_each_context(with_bos):
    arguments = {"model_name_or_path": str(with_bos / "model"), "tasks": ("copa",), "limit": 2}
    for chosen, begins_with in ((None, ["<|begin|>"]), ("false", [])):
        args = run_lm_eval.Args(**arguments, add_bos_token=chosen, max_seq_length=60)
        run_lm_eval.main(args)
        [artifact] = run_lm_eval.artifacts(args)
        sidecar = read_sidecar(artifact.path)
        assert sidecar["begins_with"] == begins_with
        assert ("add_bos_token" in sidecar["arguments"]) == (chosen is not None)
        assert artifact.path.stem.endswith("_promptbosfalse") == (chosen is not None)


def test_a_model_trained_with_bos_is_predicted_with_it(home):
    args = replace(toy_training(vocab_size=500), num_train_epochs=1)
    save_tokenizer(paths.absolute(args.model_name_or_path), KIND)
    finetune.main(args)
    plain = output_of(args)
    assert (read_sidecar(plain)["begins_with"], "add_bos_token" in read_sidecar(plain)["arguments"]) == ([], False)
    args = replace(args, add_bos_token="true")
    finetune.main(args)
    folder = output_of(args)
    assert folder.name == f"{plain.name}_bostrue"
    assert read_sidecar(folder)["begins_with"] == ["<|begin|>"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The cat")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    chat = [{"role": "user", "content": "The cat"}]
    assert tokenizer.apply_chat_template(chat, return_dict=False)[0] == tokenizer.bos_token_id
    predict.main(predict.Args(str(folder), (home / "heldout_text.jsonl",), output_file=home / "out.jsonl"))
    assert read_sidecar(home / "out.jsonl")["begins_with"] == ["<|begin|>"]
    model = OlmoForCausalLM.from_pretrained(folder).eval()
    [(_, _, text), *_] = TEXT
    found = read_records(home / "out.jsonl")[0]["gold_logprob"]
    first, *rest = tokenizer(text)["input_ids"]
    assert found == pytest.approx(log_prob(model, [first], rest), abs=1e-3)
