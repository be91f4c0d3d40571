"""The likeliest word by way of coarse logits is that of float32, also where rivals are close."""

import pytest
import torch
from toy_models import toy_olmo

from eval.engine import greedy_head
from eval.engine.greedy_head import Coarse, Likeliest, rounded
from eval.engine.lm_head import most_likely
from open_instruct.common.errors import UserError

DTYPES = [torch.int8, torch.bfloat16]


@pytest.fixture
def olmo(tmp_path):
    return toy_olmo(tmp_path, vocab_size=5003)


def finder(model, *dtypes):
    """One that rounds to these, whatever the processor has units for: without them it is only slow."""
    find = Likeliest(model)
    find.ways = list(dtypes)
    return find


def exact(model, hidden):
    return (hidden @ model.lm_head.weight.T).argmax(-1)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_the_likeliest_word_is_that_of_float32(olmo, monkeypatch, dtype):
    monkeypatch.setattr(greedy_head, "most_likely", None)  # it must not come to this
    find = finder(olmo, dtype)
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = torch.randn(1 + 10 * seed, 32)
        assert torch.equal(find(hidden), exact(olmo, hidden))


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_words_that_rounding_makes_alike_are_told_apart(olmo, dtype):
    weight = olmo.lm_head.weight
    for word in range(0, 4000, 100):
        weight[word + 17] = weight[word] * (1 + 2e-4)
    hidden = torch.cat([weight[0:4000:100], -weight[0:4000:100]]).clone()
    hidden *= 8 / hidden.norm(dim=1, keepdim=True)
    coarse = (hidden.bfloat16() @ weight.bfloat16().T).argmax(-1)
    found = finder(olmo, dtype)(hidden)
    assert torch.equal(found, exact(olmo, hidden))
    assert not torch.equal(found, coarse), "coarse logits alone are wrong here"


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_the_error_of_a_coarse_logit_is_within_its_bound(dtype):
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        # Of one sign, so that errors of products do not cancel; one entry that makes the scale of its row large.
        hidden, weight = torch.rand(100, 512) * scale, torch.rand(1008, 512)
        hidden[50:, 7], weight[500:, 9] = 30 * scale, 10
        coarse = Coarse(weight, dtype)
        factors, scales, norms, errors = (part[:, 0] for part in rounded(hidden[:, None], dtype))
        logits = coarse.multiply(factors.T).double() * coarse.scales[:, :, None] * scales
        bounds = coarse.bounds @ torch.stack([errors + greedy_head.PRODUCT_ERRORS[dtype] * norms, norms + errors])
        difference = logits.flatten(0, 1) - weight.double() @ hidden.double().T
        assert (difference.unflatten(0, (-1, greedy_head.BLOCK)).abs() <= bounds[:, None]).all()
        assert coarse.candidates(hidden) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_of_equals_the_first_is_taken_and_many_rivals_are_all_looked_at(olmo, dtype):
    olmo.lm_head.weight[1000:] = olmo.lm_head.weight[1000].clone()
    hidden = olmo.lm_head.weight[1000].repeat(8, 1) * 100
    assert finder(olmo, dtype)(hidden).tolist() == most_likely(olmo, hidden).tolist() == [1000] * 8
    olmo.lm_head.weight[1100:] = 0
    assert finder(olmo, dtype)(hidden).tolist() == [1000] * 8


@torch.inference_mode()
def test_where_too_many_words_come_near_a_finer_way_is_taken(olmo, monkeypatch):
    weight = olmo.lm_head.weight
    torch.manual_seed(0)
    hidden = torch.randn(1, 32)
    weight[:1600] = hidden[0] / hidden[0].norm() + 0.03 * torch.randn(1600, 32)
    found = [Coarse(weight, dtype).candidates(hidden) or ((), ()) for dtype in DTYPES]
    of_eight_bits, of_bfloat16 = (len(words) for _, words in found)
    assert of_eight_bits > 2 * of_bfloat16
    monkeypatch.setattr(greedy_head, "MOST_BLOCKS", of_bfloat16)
    find = finder(olmo, *DTYPES)
    assert find(hidden.repeat(8, 1)).tolist() == [exact(olmo, hidden).item()] * 8
    assert find.ways == [torch.bfloat16]
    weight[:1600] = hidden[0] / hidden[0].norm()
    find = finder(olmo, *DTYPES)
    assert max(find(hidden.repeat(8, 1)).tolist()) < 1600
    assert find.ways == []


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_nan_is_refused(olmo, dtype):
    with pytest.raises(UserError, match="NaN"):
        finder(olmo, dtype)(torch.full((8, 32), float("nan")))
    olmo.lm_head.weight[3] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        finder(olmo, dtype)(torch.randn(8, 32))


@torch.inference_mode()
def test_rows_are_multiplied_in_few_sizes(olmo, monkeypatch):
    """For each size the library keeps a program, which nobody would count as memory of the predictions."""
    find, sizes = finder(olmo, torch.int8), set()

    def noting(weight, factors, *, out):
        sizes.add(factors.shape[1])
        return out.copy_(weight.int() @ factors.int())

    monkeypatch.setattr(greedy_head, "multiply_integers", noting)
    for num_rows in range(1, 300, 7):
        hidden = torch.randn(num_rows, 32)
        assert torch.equal(find(hidden), exact(olmo, hidden))
    assert len(sizes) <= greedy_head.MOST_ROWS / greedy_head.FILLED_ROWS
