"""Predictions of a toy model for each kind of evaluation file; skipping, resumption, truncation and sampling."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from toy_evaluation import RTE, SCIQ, TEXT, as_records, load_toy, log_prob, read_records, run_predict, write_evaluation

from eval import predict
from eval.prediction import label_scoring, requests, runner
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_jsonl
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.sidecars import read_sidecar


@pytest.mark.usefixtures("device")
def test_labels_are_scored_as_wholes_and_the_most_likely_is_predicted(home):
    predictions = read_records(run_predict(home, "rte"))
    model, tokenizer = load_toy(home)
    for (_, prompt, completion), found in zip(RTE, predictions, strict=True):
        context = tokenizer(prompt)["input_ids"]
        expected = {
            label: log_prob(model, context, tokenizer(f" {label}")["input_ids"]) for label in ("entailment", "neutral")
        }
        assert found["scores"] == pytest.approx(expected, abs=1e-3)
        assert found["output"] == max(expected, key=expected.__getitem__)
        assert found["gold_logprob"] == found["scores"][completion.strip()]
        assert found["prompt"] == prompt


@pytest.mark.usefixtures("device")
def test_papers_protocol_predicts_the_label_with_the_most_likely_sub_token(home):
    rows = [(name, f"{prompt} ", completion.strip()) for name, prompt, completion in RTE]
    write_evaluation(home / "paper.jsonl", rows, protocol="paper")
    write_jsonl(home / "paper.exemplars.jsonl", as_records(rows)[:1])
    path = run_predict(home, "paper", num_shots=1)
    model, tokenizer = load_toy(home)
    shot = f"{rows[0][1]}{rows[0][2]}\n"
    for (_, prompt, completion), found in zip(rows, read_records(path), strict=True):
        context = tokenizer(shot + prompt)["input_ids"]
        expected = {
            label: max(
                log_prob(model, context, [token])
                for text in (label, f" {label}")
                for token in tokenizer(text)["input_ids"]
            )
            for label in ("entailment", "neutral")
        }
        assert found["scores"] == pytest.approx(expected, abs=1e-3)
        assert found["output"] == max(expected, key=expected.__getitem__)
        gold = log_prob(model, context, tokenizer(completion)["input_ids"])
        assert found["gold_logprob"] == pytest.approx(gold, abs=1e-3)
    assert read_sidecar(path)["arguments"]["protocol"] == "paper"
    assert read_sidecar(path)["exemplar_ids"] == ["rte-0"]


@pytest.mark.usefixtures("device")
def test_generated_text_is_greedy_and_the_gold_completion_is_scored(home):
    path = run_predict(home, "sciq")
    model, tokenizer = load_toy(home)
    reference: Any = model
    predictions = read_records(path)
    for (_, prompt, completion), found in zip(SCIQ, predictions, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        generated = reference.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :].tolist()
        assert found["output"] == tokenizer.decode(generated, skip_special_tokens=True).strip()
        assert found["finished"] == (tokenizer.eos_token_id in generated)
        expected = log_prob(model, ids[0].tolist(), tokenizer(completion)["input_ids"])
        assert found["gold_logprob"] == pytest.approx(expected, abs=1e-3)
    assert read_sidecar(path)["num_unfinished"] == sum(not found["finished"] for found in predictions)


@pytest.mark.usefixtures("device")
def test_text_is_scored_after_eos(home):
    predictions = read_records(run_predict(home, "heldout_text"))
    model, tokenizer = load_toy(home)
    expected = [log_prob(model, [tokenizer.eos_token_id], tokenizer(text)["input_ids"]) for _, _, text in TEXT]
    assert [found["gold_logprob"] for found in predictions] == pytest.approx(expected, abs=1e-3)
    assert "output" not in predictions[0]


def test_prediction_file_is_named_by_identities_not_by_the_input_file(home):
    write_evaluation(home / "anything.jsonl", SCIQ, task_format="instruct")
    path = run_predict(home, "anything")
    assert path == home / "output" / "predictions" / "sciq_instruct_toy_ckpt7_new5.jsonl"
    identity = read_sidecar(path)["identity"]
    assert {name: identity[name] for name in ("model_id", "step", "lr", "eval_set", "format", "kind", "shots")} == {
        "model_id": "toy_ckpt7",
        "step": 7,
        "lr": None,
        "eval_set": "sciq",
        "format": "instruct",
        "kind": "generation",
        "shots": 0,
    }


def test_without_sidecars_the_folder_name_and_the_registry_identify_the_predictions(home):
    (home / "model" / "meta.json").unlink()
    (home / "rte.jsonl.meta.json").unlink()
    path = run_predict(home, "rte")
    # The name of a folder alone is not unique.
    assert re.fullmatch(r"rte_model-[0-9a-f]{8}\.jsonl", path.name)
    assert read_sidecar(path)["identity"]["kind"] == "labels"


def test_finished_files_are_skipped_without_importing_torch(home):
    run_predict(home, "rte", "heldout_text")
    code = (
        "import sys; from pathlib import Path; from eval import predict; "
        "predict.main(predict.Args(Path('model'), (Path('rte.jsonl'), Path('heldout_text.jsonl')))); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("done before")) == (0, 2), done.stderr


def test_help_does_not_import_torch():
    code = """
import runpy, sys
for name in ("predict", "predict_classification", "predict_sweep", "eval_pred", "perturb_weights", "weight_distance",
             "interpolate_weights"):
    sys.argv = [f"eval/{name}.py", "--help"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert ended.code == 0
    assert not {"torch", "transformers"} & set(sys.modules), name
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("usage:") == 7


def test_other_arguments_are_refused_only_where_they_affect_the_content(home):
    run_predict(home, "rte", "sciq")
    output = home / "output" / "other.jsonl"
    for name in ("rte", "sciq"):
        predict.main(predict.Args(home / "model", (home / f"{name}.jsonl",), output_file=output, overwrite=True))
        again = predict.Args(home / "model", (home / f"{name}.jsonl",), output_file=output, max_new_tokens=7)
        if name == "rte":
            predict.main(again)  # nothing is generated for labels
        else:
            with pytest.raises(UserError, match="max_new_tokens was 60, now 7; add --overwrite"):
                predict.main(again)


def test_precision_of_the_weights_is_named_and_recorded(home):
    exact, half = (run_predict(home, "rte", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert half.name == exact.name.replace(".jsonl", "_bfloat16.jsonl")
    assert [read_sidecar(path)["dtype"] for path in (exact, half)] == ["torch.float32", "torch.bfloat16"]
    scores = ([record["gold_logprob"] for record in read_records(path)] for path in (exact, half))
    assert next(scores) == pytest.approx(next(scores), rel=0.05)
    assert run_predict(home, "rte", load_in_float16=True).name.endswith("_float16.jsonl")
    with pytest.raises(UserError, match="--load_in_float16 is --dtype float16, found --dtype bfloat16"):
        run_predict(home, "rte", dtype="bfloat16", load_in_float16=True)


def test_files_of_other_settings_have_other_names(home):
    paths = {run_predict(home, "sciq", **options) for options in ({}, {"max_new_tokens": 7}, {"limit": (2,)})}
    paths |= {run_predict(home, "sciq", do_sample=True, seed=seed) for seed in (1, 42)}
    assert {path.name.removeprefix("sciq_toy_ckpt7") for path in paths} == {
        *("_new5.jsonl", "_new7.jsonl", "_limit2_new5.jsonl", "_new5_sampled_seed1.jsonl", "_new5_sampled.jsonl")
    }


@pytest.mark.parametrize("name", ["sciq", "rte"])
def test_interrupted_file_is_resumed_after_the_last_complete_chunk_with_the_same_bytes(home, monkeypatch, name):
    path = run_predict(home, name, batch_size=2)
    whole = path.read_bytes()
    path.unlink()
    score, calls = requests.log_likelihoods, []

    def interrupted(model, items):
        calls.append(len(items))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(model, items)

    monkeypatch.setattr(requests, "log_likelihoods", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_predict(home, name, batch_size=2)
    assert not path.exists()
    partial = path.with_name(path.name + ".partial")
    with partial.open("a", encoding="utf-8") as file:
        file.write('{"incomplete": "li')
    run_predict(home, name, batch_size=2)
    assert path.read_bytes() == whole
    assert calls == [2, 2, 2, 2], "two chunks, the interrupted one, and that one again"
    assert read_sidecar(path)["num_resumed"] == 4
    assert not partial.exists()


def test_token_ids_of_only_one_chunk_are_in_memory(home, monkeypatch):
    sizes, encode = [], label_scoring.encode

    def counted(tokenizer, pairs, *settings, **options):
        sizes.append(len(pairs))
        return encode(tokenizer, pairs, *settings, **options)

    monkeypatch.setattr(label_scoring, "encode", counted)
    monkeypatch.setattr(runner, "CHUNK_ITEMS", 4)
    run_predict(home, "rte")
    assert sizes == [4, 2, 4, 2], "checked, then predicted"


def test_partial_file_of_other_arguments_is_not_resumed(home):
    path = home / "output" / "predictions" / "rte_toy_ckpt7.jsonl"
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".partial").write_text("0" * 64 + "\n{}\n{}\n")
    run_predict(home, "rte", batch_size=2)
    assert read_sidecar(path)["num_resumed"] == 0
    assert len(read_records(path)) == 6


def test_limit_can_differ_by_file(home):
    run_predict(home, "rte", "heldout_text", limit=(2, 4))
    folder = home / "output" / "predictions"
    counts = {
        name: len(read_records(folder / f"{name}_toy_ckpt7_limit{n}.jsonl"))
        for name, n in (("rte", 2), ("heldout_text", 4))
    }
    assert counts == {"rte": 2, "heldout_text": 4}


def test_limit_selects_the_same_items_every_time_in_file_order(home):
    limited = read_records(run_predict(home, "heldout_text", limit=(3,)))
    everything = read_records(run_predict(home, "heldout_text", overwrite=True))
    ids = [item["id"] for item in limited]
    assert len(ids) == 3
    assert ids == sorted(ids)
    assert [item["id"] for item in read_records(run_predict(home, "heldout_text", limit=(3,), overwrite=True))] == ids
    by_id = {item["id"]: item["gold_logprob"] for item in everything}
    assert [item["gold_logprob"] for item in limited] == pytest.approx([by_id[name] for name in ids], abs=1e-4)


def test_long_prompts_are_refused_or_truncated_and_counted(home):
    long = [("rte", "cat " * 300 + prompt, completion) for _, prompt, completion in RTE[:2]]
    write_evaluation(home / "rte.jsonl", [*long, *RTE])
    with pytest.raises(UserError, match=r"2 of 8 prompts leave no room .* takes 256 .* --truncate_left"):
        run_predict(home, "rte")
    path = run_predict(home, "rte", truncate_left=True)
    assert read_sidecar(path)["num_truncated"] == 2
    model, tokenizer = load_toy(home)
    labels = [tokenizer(f" {label}")["input_ids"] for label in ("entailment", "neutral")]
    kept = tokenizer(long[0][1])["input_ids"][-(256 - max(map(len, labels))) :]
    assert read_records(path)[0]["scores"]["neutral"] == pytest.approx(log_prob(model, kept, labels[1]), abs=1e-3)


def test_completion_longer_than_the_model_takes_is_refused(home):
    write_evaluation(home / "sciq.jsonl", [("sciq", "A cat", " cat" * 400)])
    with pytest.raises(UserError, match="the longest continuation needs"):
        run_predict(home, "sciq", truncate_left=True)


def test_plain_text_longer_than_the_model_takes_is_scored_in_windows_after_eos(home):
    texts = [" ".join(["cat"] * 400), "a dog"]
    write_evaluation(home / "heldout_text.jsonl", [("heldout_text", "", text) for text in texts])
    long, short = read_records(run_predict(home, "heldout_text"))
    model, tokenizer = load_toy(home)
    ids, eos = tokenizer(texts[0])["input_ids"], [tokenizer.eos_token_id]
    windows = [ids[start : start + 255] for start in range(0, len(ids), 255)]
    expected = sum(log_prob(model, eos, window) for window in windows)
    assert long["gold_logprob"] == pytest.approx(expected, abs=1e-2)
    assert (long["num_windows"], "num_windows" in short) == (len(windows), False)
    assert len(windows) > 1


def test_stop_at_newline_ends_a_generation_at_its_first_line_break(home):
    model, tokenizer = load_toy(home)
    (newline,) = tokenizer("\n")["input_ids"]
    assert newline in requests.newline_ids(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[newline] *= 3  # large logits of either sign: most likely at some steps
    model.save_pretrained(home / "model")
    free = read_records(run_predict(home, "sciq", max_new_tokens=40))
    stopped = read_records(run_predict(home, "sciq", max_new_tokens=40, stop_at_newline=True, overwrite=True))
    assert any("\n" in item["output"] for item in free), "the toy must generate a line break, or nothing is tested"
    for before, after in zip(free, stopped, strict=True):
        assert "\n" not in after["output"]
        assert before["output"].startswith(after["output"])


def test_sampling_depends_on_the_seed_not_on_the_batch_size(home):
    first = read_records(run_predict(home, "sciq", do_sample=True, temperature=1.5))
    again = run_predict(home, "sciq", do_sample=True, temperature=1.5, overwrite=True, batch_size=1)
    assert [item["output"] for item in read_records(again)] == [item["output"] for item in first]
    assert read_sidecar(again)["arguments"]["seed"] == 42
    other = read_records(run_predict(home, "sciq", do_sample=True, temperature=1.5, overwrite=True, seed=1))
    assert [item["output"] for item in other] != [item["output"] for item in first]
