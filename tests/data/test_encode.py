"""Encoding: prompt and completion are tokenised jointly, EOS is a target, completions are never truncated."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from toy_models import toy_tokenizer
from toy_tokenizers import save_tokenizer
from transformers import AutoTokenizer

from open_instruct.common.errors import UserError
from open_instruct.common.model_loading import load_tokenizer
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
def test_a_prompt_has_the_same_ids_in_training_and_prediction(tokenizer, prompt, completion):
    pair = encode_pairs(tokenizer, [(prompt, f" {completion}")])[0]
    assert pair.prompt == encode_prompts(tokenizer, [prompt])[0]
    assert tokenizer.decode(pair.prompt + pair.completion) == f"{prompt} {completion}"
    assert tokenizer.decode(pair.completion) == f" {completion}"


def test_targets_are_the_completion_and_eos(tokenizer):
    record = {"id": "1", "prompt": "The cat", "completion": " sat"}
    (example,), num_truncated = encode_examples(tokenizer, [record], max_length=64)
    pair = encode_pairs(tokenizer, [("The cat", " sat")])[0]
    assert num_truncated == 0
    assert example.ids == [*pair.prompt, *pair.completion, tokenizer.eos_token_id]
    assert example.labels == [IGNORED] * len(pair.prompt) + [*pair.completion, tokenizer.eos_token_id]


def test_text_without_a_prompt_is_conditioned_on_eos(tokenizer):
    pair = encode_pairs(tokenizer, [("", "The cat")])[0]
    assert pair.prompt == [tokenizer.eos_token_id] == encode_prompts(tokenizer, [""])[0]


def test_a_long_example_is_truncated_in_the_prompt_only(tokenizer):
    record = {"id": "1", "prompt": "The cat sat on the mat " * 5 + "and", "completion": " sat"}
    (whole,), _ = encode_examples(tokenizer, [record], max_length=1000)
    (truncated,), num_truncated = encode_examples(tokenizer, [record], max_length=10)
    assert num_truncated == 1
    assert truncated.ids == whole.ids[-10:]
    assert truncated.num_targets == whole.num_targets


def test_a_completion_that_does_not_fit_is_refused(tokenizer):
    record = {"id": "row-7", "prompt": "The", "completion": " cat sat on the mat" * 5}
    with pytest.raises(UserError, match="row-7: its completion alone exceeds max_seq_length 10"):
        encode_examples(tokenizer, [record], max_length=10)


def test_an_empty_completion_is_refused(tokenizer):
    with pytest.raises(UserError, match="empty completion after the prompt"):
        encode_pairs(tokenizer, [("The cat", "")])


def test_the_space_of_the_papers_prompts_belongs_to_the_completions_first_token(tokenizer, tmp_path):
    pair = ("The cat sat on ", "the mat")
    (trimmed,) = encode_pairs(tokenizer, [pair])
    assert tokenizer.decode(trimmed.completion) == " the mat"
    # Tokenizers differ in whether a token's offsets have its space: Llama 3's do, OLMo's do not.
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert encode_pairs(other, [pair]) == [trimmed]


def test_a_token_that_spans_prompt_and_completion_is_refused(tokenizer):
    token = next(t for t in sorted(tokenizer.get_vocab()) if len(t) == 2 and t.isalpha() and t.isascii())
    with pytest.raises(UserError, match="spans prompt and completion"):
        encode_pairs(tokenizer, [(token[0], token[1])])


CHAT = [
    {"role": "user", "content": "yes or no?"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "The dog?"},
    {"role": "assistant", "content": "The cat."},
]


def test_only_the_assistants_turns_of_a_chat_are_targets(tokenizer):
    example = encode_messages(tokenizer, CHAT)
    targets = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(targets) == "no<|endoftext|>The cat.<|endoftext|>"
    assert tokenizer.decode(example.ids) == (
        "<|user|>\nyes or no?\n<|assistant|>\nno<|endoftext|>\n"
        "<|user|>\nThe dog?\n<|assistant|>\nThe cat.<|endoftext|>\n"
    )


def test_a_chat_prompt_has_the_same_ids_as_in_training(tokenizer):
    example = encode_messages(tokenizer, CHAT[:2])
    prompt = encode_prompts(tokenizer, [chat_prompt("yes or no?")])[0]
    assert example.ids[: len(prompt)] == prompt
    assert example.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert example.labels[len(prompt)] != IGNORED


def test_a_long_chat_loses_whole_turns_of_the_assistant(tokenizer):
    whole = encode_messages(tokenizer, CHAT)
    first_answer = next(i for i, label in enumerate(whole.labels) if label != IGNORED)
    # Truncation after the first token of "no<eos>" must drop the EOS as well.
    max_length = len(whole.ids) - first_answer - 1
    (truncated,), _ = encode_examples(tokenizer, [{"id": "1", "messages": CHAT}], max_length=max_length)
    assert tokenizer.decode([label for label in truncated.labels if label != IGNORED]) == "The cat.<|endoftext|>"


def test_a_completion_that_begins_with_a_mark_on_the_prompts_last_letter_is_refused(tokenizer):
    # Normalised to NFC, both are one character, whose offsets are those of the letter.
    with pytest.raises(UserError, match="begins with a mark on the last letter of the prompt 'e'"):
        encode_pairs(tokenizer, [("e", "\N{COMBINING ACUTE ACCENT} x")])
    assert encode_pairs(tokenizer, [("e", " \N{COMBINING ACUTE ACCENT} x")])


def test_bos_stands_once_where_a_prompt_of_the_paper_begins_with_it(tmp_path):
    save_tokenizer(tmp_path, "byte-level BPE (GPT-2, OLMo)", begins=True)
    tokenizer = load_tokenizer(tmp_path)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    spelled, ordinary = encode_prompts(tokenizer, [f"{bos}A{eos}B", "AB"], parses_special_tokens=True)
    assert spelled == [
        tokenizer.bos_token_id,
        *encode_prompts(tokenizer, ["A"])[0][1:],
        tokenizer.eos_token_id,
        ordinary[-1],
    ]
    assert ordinary.count(tokenizer.bos_token_id) == spelled.count(tokenizer.bos_token_id) == 1


def test_a_chat_without_an_answer_of_text_trains_eos(tokenizer):
    chat = [{"role": "user", "content": "The cat"}, {"role": "assistant", "content": " "}]
    example = encode_messages(tokenizer, chat)
    assert [label for label in example.labels if label != IGNORED] == [tokenizer.eos_token_id]
