"""One encoder: prompt and completion split where they meet, EOS a target, answers never cut."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_models import toy_tokenizer

from open_instruct.common.errors import UserError
from open_instruct.data.encode import (
    IGNORED,
    chat_prompt,
    encode_examples,
    encode_messages,
    encode_pairs,
    encode_prompts,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return toy_tokenizer(tmp_path_factory.mktemp("tokenizer"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).map(str.strip).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(prompt=TEXT, completion=TEXT)
def test_the_prompt_has_the_same_ids_in_training_and_in_prediction(tokenizer, prompt, completion):
    pair = encode_pairs(tokenizer, [(prompt, f" {completion}")])[0]
    assert pair.prompt == encode_prompts(tokenizer, [prompt])[0]
    assert tokenizer.decode(pair.prompt + pair.completion) == f"{prompt} {completion}"
    assert tokenizer.decode(pair.completion) == f" {completion}"


def test_targets_are_the_completion_and_eos(tokenizer):
    record = {"id": "1", "prompt": "The cat", "completion": " sat"}
    (example,), num_cut = encode_examples(tokenizer, [record], max_length=64)
    pair = encode_pairs(tokenizer, [("The cat", " sat")])[0]
    assert num_cut == 0
    assert example.ids == [*pair.prompt, *pair.completion, tokenizer.eos_token_id]
    assert example.labels == [IGNORED] * len(pair.prompt) + [*pair.completion, tokenizer.eos_token_id]


def test_a_text_without_prompt_is_conditioned_on_eos(tokenizer):
    pair = encode_pairs(tokenizer, [("", "The cat")])[0]
    assert pair.prompt == [tokenizer.eos_token_id] == encode_prompts(tokenizer, [""])[0]


def test_too_long_an_example_loses_its_prompt_and_never_its_answer(tokenizer):
    record = {"id": "1", "prompt": "The cat sat on the mat " * 5 + "and", "completion": " sat"}
    (whole,), _ = encode_examples(tokenizer, [record], max_length=1000)
    (cut,), num_cut = encode_examples(tokenizer, [record], max_length=10)
    assert num_cut == 1
    assert cut.ids == whole.ids[-10:]
    assert cut.num_targets == whole.num_targets


def test_an_answer_that_does_not_fit_is_refused(tokenizer):
    record = {"id": "row-7", "prompt": "The", "completion": " cat sat on the mat" * 5}
    with pytest.raises(UserError, match="row-7: its completion alone exceeds max_seq_length 10"):
        encode_examples(tokenizer, [record], max_length=10)


def test_an_empty_completion_is_refused(tokenizer):
    with pytest.raises(UserError, match="empty completion after the prompt"):
        encode_pairs(tokenizer, [("The cat", "")])


def test_a_token_across_the_border_is_refused(tokenizer):
    token = next(t for t in sorted(tokenizer.get_vocab()) if len(t) == 2 and t.isalpha() and t.isascii())
    with pytest.raises(UserError, match="spans prompt and completion"):
        encode_pairs(tokenizer, [(token[0], token[1])])


CHAT = [
    {"role": "user", "content": "yes or no?"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "The dog?"},
    {"role": "assistant", "content": "The cat."},
]


def test_in_a_chat_only_what_the_assistant_says_is_a_target(tokenizer):
    example = encode_messages(tokenizer, CHAT)
    targets = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(targets) == "no<|endoftext|>The cat.<|endoftext|>"
    assert tokenizer.decode(example.ids) == (
        "<|user|>\nyes or no?\n<|assistant|>\nno<|endoftext|>\n"
        "<|user|>\nThe dog?\n<|assistant|>\nThe cat.<|endoftext|>\n"
    )


def test_a_chat_is_asked_as_it_was_trained(tokenizer):
    example = encode_messages(tokenizer, CHAT[:2])
    asked = encode_prompts(tokenizer, [chat_prompt("yes or no?")])[0]
    assert example.ids[: len(asked)] == asked
    assert example.labels[: len(asked)] == [IGNORED] * len(asked)
    assert example.labels[len(asked)] != IGNORED


def test_a_chat_that_is_too_long_drops_whole_answers(tokenizer):
    whole = encode_messages(tokenizer, CHAT)
    first_answer = next(i for i, label in enumerate(whole.labels) if label != IGNORED)
    # Cutting after the first token of "no<eos>" must take the EOS as well.
    max_length = len(whole.ids) - first_answer - 1
    (cut,), _ = encode_examples(tokenizer, [{"id": "1", "messages": CHAT}], max_length=max_length)
    assert tokenizer.decode([label for label in cut.labels if label != IGNORED]) == "The cat.<|endoftext|>"
