"""Losses on the line between a toy model and a changed copy of it."""

import json
import math

import pytest
import torch
from changed_models import changed_copy
from safetensors.torch import load_file, save_file
from toy_evaluation import TEXT, load_toy, log_prob
from toy_models import toy_adapter, toy_olmo
from transformers import AutoTokenizer, OlmoForCausalLM

from eval import perturb_weights
from eval.interpolate_weights import Args, barrier, main, set_between, weights_on_cpu
from open_instruct import merge_lora
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar

ALPHAS = (0.0, 0.25, 0.5, 1.0)


def changed(name, tensor):
    torch.manual_seed(len(name))
    return tensor + 0.3 * torch.randn_like(tensor)


def args(home, tuned="tuned", **options):
    return Args((home / tuned,), input_file=home / "heldout_text.jsonl", **({"alphas": ALPHAS} | options))


def measured(home, tuned="tuned", **options):
    main(args(home, tuned, **options))
    return json.loads(paths.interpolation_file("heldout_text", "default", tuned).read_text())


def losses(record):
    return {row["alpha"]: row["bits_per_byte"] for row in record["points"]}


def plain_loss(folder):
    """Bits per byte without noise and without interpolation."""
    perturb_weights.main(perturb_weights.Args((folder,), folder.parent / "heldout_text.jsonl", sizes=(0.1,)))
    (path,) = (paths.base_dir() / "output" / "perturbations").glob(f"heldout_text_{model_id(folder)}.json")
    return json.loads(path.read_text())["bits_per_byte"]


def model_id(folder):
    return read_sidecar(folder)["identity"]["model_id"]


def test_both_ends_have_exactly_the_losses_of_the_two_models(home):
    tuned = changed_copy(home / "model", home / "tuned", changed)
    record = measured(home)
    found = losses(record)
    assert list(found) == list(ALPHAS)
    assert found[0.0] == plain_loss(home / "model")
    assert found[1.0] == plain_loss(tuned)
    assert found[0.0] != found[1.0]
    assert record["n"] == len(TEXT)
    assert (record["identity"]["model_id"], record["base"]["model_id"]) == ("tuned", "toy_ckpt7")


def test_the_loss_between_is_that_of_a_model_with_the_mean_weights(home):
    tuned = changed_copy(home / "model", home / "tuned", changed)
    first, last = (load_file(folder / "model.safetensors") for folder in (home / "model", tuned))
    middle = changed_copy(home / "model", home / "middle", lambda name, _: (first[name] + last[name]) / 2)
    model, tokenizer = OlmoForCausalLM.from_pretrained(middle).eval(), AutoTokenizer.from_pretrained(middle)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for _, _, text in TEXT]
    # The first token follows EOS, which stands for an empty prompt.
    nats = -sum(log_prob(model, [tokenizer.eos_token_id], ids) for ids in texts)
    expected = nats / math.log(2) / sum(len(text.encode()) for _, _, text in TEXT)
    assert losses(measured(home))[0.5] == pytest.approx(expected, rel=1e-5)


def test_parameters_are_exactly_those_of_the_ends_at_0_and_1(home):
    model, _ = load_toy(home)
    start, buffers = weights_on_cpu(model), [b.clone() for b in model.buffers()]
    end = {name: changed(name, tensor) for name, tensor in start.items()}
    for alpha, expected in ((0.0, start), (1.0, end)):
        set_between(model, start, end, alpha)
        assert all(torch.equal(weights, expected[name]) for name, weights in model.named_parameters())
    set_between(model, start, end, 1.5)
    name, weights = next(model.named_parameters())
    torch.testing.assert_close(weights.detach(), 1.5 * end[name] - 0.5 * start[name])
    assert buffers
    assert all(map(torch.equal, buffers, model.buffers()))


@pytest.mark.parametrize(
    ("of_path", "expected"),
    [
        ({0.0: 2.0, 0.5: 1.5, 1.0: 1.0}, 0.0),  # straight
        ({0.0: 2.0, 0.5: 1.2, 1.0: 1.0}, 0.0),  # below the line
        ({0.0: 2.0, 0.25: 2.5, 0.5: 2.25, 1.0: 1.0}, 0.75),  # the line is at 1.75 and 1.5
        ({0.0: 1.0, 0.5: 1.25, 1.0: 1.0, 1.5: 9.0}, 0.25),  # only what lies between counts
    ],
)
def test_the_barrier_is_the_most_above_the_straight_line(of_path, expected):
    assert barrier(of_path) == pytest.approx(expected)


def test_models_of_other_tensors_or_shapes_are_refused_by_name(home):
    changed_copy(home / "model", home / "tuned", changed)
    toy_olmo(home / "deep", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"only one of them has model\.layers\.2\..*--base_model_name_or_path"):
        main(args(home, base_model_name_or_path=home / "deep"))
    toy_olmo(home / "wide", intermediate_size=80)
    with pytest.raises(UserError, match=r"mlp\.\w+\.weight has shapes \(\d+, \d+\) and \(\d+, \d+\) in .*wide"):
        main(args(home, base_model_name_or_path=home / "wide"))
    assert not (home / "output" / "interpolations").exists()


def test_models_that_differ_in_more_than_their_parameters_are_refused(home):
    tuned = changed_copy(home / "model", home / "tuned", changed)
    config = json.loads((tuned / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10.0
    (tuned / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"differ in their parameters only: compare their config\.json"):
        main(args(home, base_model_name_or_path=home / "model"))


def test_tied_weights_are_interpolated_once_and_an_untied_copy_is_refused(home):
    toy_olmo(home / "tied", tie_word_embeddings=True, initializer_range=0.3)
    changed_copy(home / "tied", home / "tuned", changed)
    found = losses(measured(home))
    assert found[1.0] == plain_loss(home / "tuned")
    tensors = load_file(home / "tied" / "model.safetensors")
    untied = changed_copy(home / "tied", home / "untied", lambda name, tensor: tensor)
    save_file(tensors | {"lm_head.weight": torch.zeros_like(tensors["model.embed_tokens.weight"])},
              untied / "model.safetensors", {"format": "pt"})  # fmt: skip
    config = json.loads((untied / "config.json").read_text()) | {"tie_word_embeddings": False}
    (untied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"only one of them has lm_head\.weight.*both with tied weights"):
        main(args(home, "untied", base_model_name_or_path=home / "tied"))


def test_an_adapter_is_refused_until_it_is_merged(home):
    toy_adapter(home / "model", home / "adapter")
    with pytest.raises(UserError, match=r"has only an adapter; merge it .* open_instruct/merge_lora\.py"):
        main(args(home, "adapter"))
    merge_lora.main(merge_lora.Args(str(home / "adapter"), home / "merged"))
    main(args(home, "merged"))
    record = json.loads(paths.interpolation_file("heldout_text", "default", model_id(home / "merged")).read_text())
    assert losses(record)[1.0] == plain_loss(home / "merged")


def test_finished_output_is_skipped_and_other_arguments_are_refused(home, capsys):
    changed_copy(home / "model", home / "tuned", changed)
    record = measured(home)
    capsys.readouterr()
    assert measured(home) == record
    assert "done before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other arguments: alphas was .* now \[0\.0, 1\.0\]"):
        main(args(home, alphas=(0.0, 1.0)))


@pytest.mark.parametrize("alphas", [(0.0, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0)])
def test_alphas_without_both_ends_or_out_of_order_are_refused(home, alphas):
    changed_copy(home / "model", home / "tuned", changed)
    with pytest.raises(UserError, match=r"--alphas are .*; expected"):
        main(args(home, alphas=alphas))
