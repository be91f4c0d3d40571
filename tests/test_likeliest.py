"""The likeliest word by way of bfloat16 is that of float32, also where rivals are close."""

import pytest
import torch
from toy_models import toy_olmo

from eval import likeliest
from eval.likeliest import Likeliest
from eval.vocabulary import most_likely
from open_instruct.records import UserError


@pytest.fixture
def olmo(tmp_path, monkeypatch):
    # The way itself does not need the units, it is only slow without them.
    monkeypatch.setattr(likeliest, "multiplies_bfloat16", lambda device: True)
    return toy_olmo(tmp_path, vocab_size=5003)


def exact(model, hidden):
    return (hidden @ model.lm_head.weight.T).argmax(-1)


@torch.inference_mode()
def test_the_likeliest_word_is_that_of_float32(olmo, monkeypatch):
    monkeypatch.setattr(likeliest, "most_likely", None)  # it must not come to this
    find = Likeliest(olmo)
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = torch.randn(64, 32)
        assert torch.equal(find(hidden), exact(olmo, hidden))


@torch.inference_mode()
def test_words_that_bfloat16_cannot_tell_apart_are_told_apart(olmo):
    weight = olmo.lm_head.weight
    for word in range(0, 4000, 100):
        weight[word + 17] = weight[word] * (1 + 2e-4)
    hidden = torch.cat([weight[0:4000:100], -weight[0:4000:100]]).clone()
    hidden *= 8 / hidden.norm(dim=1, keepdim=True)
    coarse = (hidden.bfloat16() @ weight.bfloat16().T).argmax(-1)
    found = Likeliest(olmo)(hidden)
    assert torch.equal(found, exact(olmo, hidden))
    assert not torch.equal(found, coarse), "bfloat16 alone is wrong here"


@torch.inference_mode()
def test_the_error_of_a_coarse_logit_is_within_its_bound():
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        # Of one sign, so that errors of products do not cancel.
        hidden, weight = torch.rand(100, 512) * scale, torch.rand(1000, 512)
        coarse = (weight.bfloat16() @ hidden.bfloat16().T).float()
        bound = likeliest.RELATIVE_ERROR * hidden.norm(dim=1) * weight.norm(dim=1)[:, None]
        assert ((coarse.double() - weight.double() @ hidden.double().T).abs() <= bound).all()


@torch.inference_mode()
def test_of_equals_the_first_is_taken_and_many_rivals_are_all_looked_at(olmo):
    olmo.lm_head.weight[1000:] = olmo.lm_head.weight[1000].clone()
    hidden = olmo.lm_head.weight[1000].repeat(8, 1) * 100
    assert Likeliest(olmo)(hidden).tolist() == most_likely(olmo, hidden).tolist() == [1000] * 8
    olmo.lm_head.weight[1100:] = 0
    assert Likeliest(olmo)(hidden).tolist() == [1000] * 8


@torch.inference_mode()
def test_nan_is_refused(olmo):
    with pytest.raises(UserError, match="NaN"):
        Likeliest(olmo)(torch.full((8, 32), float("nan")))
