"""Every causal architecture of transformers is right against transformers itself, or refused in one sentence.

What is computed how stands in docs/architectures.md, and agrees.
"""

import architectures
import pytest
from architecture_page import documented, row_of
from architecture_sweep import outcomes

ALWAYS = ("olmo", "llama", "gemma2", "bloom", "gpt2", "stablelm", "mamba", "olmo_hybrid", "olmoe", "gpt_oss")
"""Of different kinds: soft caps, ALiBi, learned positions, rotary in part, recurrent, mixed, experts, sinks."""


def test_the_page_has_every_architecture():
    assert documented().keys() == {*architectures.names()}


@pytest.mark.parametrize("name", ALWAYS)
def test_an_architecture_is_right_by_the_documented_ways(name, tmp_path):
    assert row_of(name, tmp_path) == documented()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in architectures.names() if name not in ALWAYS])
def test_every_other_architecture_is_right_or_refused_as_documented(name, tmp_path):
    assert row_of(name, tmp_path) == documented()[name]


@pytest.mark.parametrize("name", ["stablelm", "mamba", "gemma2"])
def test_the_sweep_finds_ways_that_are_taken_unchecked(name, tmp_path, monkeypatch):
    for module in ("eval.engine.ways", "open_instruct.training.ways"):
        monkeypatch.setattr(f"{module}.fault", lambda *_: None)
        monkeypatch.setattr(f"{module}.logit_option", lambda _: None)
    assert "wrong" in {outcome.kind for outcome in outcomes(name, tmp_path).values()}
