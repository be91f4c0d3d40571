"""Noise on the weights of a toy model."""

import dataclasses
import json
import math

import pytest
import torch
from toy_evaluation import TEXT, load_toy, read_records, run_predict

from eval.perturb_weights import Args, main, perturbed
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import read_sidecar


def args(home, **options):
    return Args((home / "model",), home / "heldout_text.jsonl", **({"sizes": (0.05, 0.5)} | options))


def measured(home, **options):
    main(args(home, **options))
    path = paths.perturbation_file("heldout_text", "default", "toy_ckpt7")
    assert read_sidecar(path)["identity"]["model_id"] == "toy_ckpt7"
    return json.loads(path.read_text())


def test_noise_has_the_given_size_and_weights_are_restored_exactly(home):
    model, _ = load_toy(home)
    before = [weights.detach().clone() for weights in model.parameters()]
    with perturbed(model, 0.1, seed=3):
        for old, new in zip(before, model.parameters(), strict=True):
            noise = (new - old).detach()
            rms = float(old.square().mean().sqrt())
            # The smallest tensor has 1,024 elements: a sample deviation is within 10% of the true one.
            assert float(noise.std()) == pytest.approx(0.1 * rms, rel=0.1)
            assert abs(noise.mean()) < 0.02 * rms
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_noise_of_one_seed_scales_with_its_size(home):
    model, _ = load_toy(home)
    (first, *_) = [weights.detach().clone() for weights in model.parameters()]
    noises = []
    for size, seed in ((0.1, 0), (0.2, 0), (0.1, 1)):
        with perturbed(model, size, seed=seed):
            noises.append((next(model.parameters()) - first).detach())
    assert torch.allclose(2 * noises[0], noises[1], atol=1e-6)
    assert not torch.allclose(noises[0], noises[2], atol=1e-3)


def test_bits_per_byte_without_noise_equals_the_predictions(home):
    record = measured(home)
    nats = sum(found["gold_logprob"] for found in read_records(run_predict(home, "heldout_text")))
    num_bytes = sum(len(completion.encode()) for _, _, completion in TEXT)
    assert record["bits_per_byte"] == pytest.approx(-nats / math.log(2) / num_bytes, rel=1e-5)
    assert record["n"] == len(TEXT)
    assert [(row["size"], row["draw"]) for row in record["noise"]] == [(s, d) for s in (0.05, 0.5) for d in range(3)]
    changes = {size: [abs(r["bits_per_byte"] - record["bits_per_byte"]) for r in record["noise"] if r["size"] == size]
               for size in (0.05, 0.5)}  # fmt: skip
    assert 0 < sum(changes[0.05]) < sum(changes[0.5])


def test_finished_output_is_skipped_and_other_arguments_are_refused(home, capsys):
    record = measured(home)
    capsys.readouterr()
    assert measured(home) == record
    assert "done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="made with other arguments: seed was 0, now 1"):
        main(args(home, seed=1))
    assert measured(home, seed=1, overwrite=True)["noise"] != record["noise"]


def test_every_invalid_argument_is_named(home):
    with pytest.raises(UserError, match=r"--sizes are .*larger than the one before"):
        main(args(home, sizes=(0.2, 0.1), num_draws=1))
    with pytest.raises(UserError, match="no such file"):
        main(dataclasses.replace(args(home), input_file=home / "nothing.jsonl"))
