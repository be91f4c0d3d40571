"""Metrics per item, compared with rouge_score, scikit-learn and numbers worked out by hand."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from eval.metrics import item_metrics
from open_instruct.common.errors import UserError

ORACLE = RougeScorer(["rougeL"], use_stemmer=False)
# Few words, so that texts share many of them; and any text, for separators.
WORDY = st.lists(st.sampled_from(["a", "the", "cat", "sat", "7", "Cat.", "naïve", "İ", "-"]), max_size=25).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.one_of(WORDY, st.text(max_size=30)), st.one_of(WORDY, st.text(max_size=30)))
def test_rouge_l_equals_rouge_score(output, reference):
    expected = ORACLE.score(reference, output)["rougeL"].fmeasure
    assert item_metrics.rouge_l([output], [reference])[0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_rouge_tokens_are_runs_of_ascii_letters_and_digits(text):
    assert item_metrics.rouge_tokens(text) == re.findall("[a-z0-9]+", text.lower())


def test_lone_surrogate_separates_rouge_tokens():
    # json.loads gives these where a text was truncated within a character.
    assert item_metrics.rouge_tokens("one\ud83dtwo") == ["one", "two"]


def test_rouge_l_of_an_example():
    # Common subsequence "the cat down": 3 of 4 output and 5 reference tokens: 2 * 3 / 9.
    assert item_metrics.rouge_l(["The cat lay DOWN!"], [" the black cat sat down"]).tolist() == [6 / 9]


def test_rouge_l_of_a_text_without_tokens_is_zero():
    assert item_metrics.rouge_l(["", "?", "cat"], ["cat", "?", ""]).tolist() == [0, 0, 0]


def test_exact_match_ignores_surrounding_white_space_only():
    outputs, references = ["yes\n", "Yes", "no way"], [" yes", " yes", " no  way"]
    assert item_metrics.exact_match(outputs, references).tolist() == [1, 0, 0]


def test_chance_corrected_accuracy_is_0_for_guessing_and_1_for_always_correct():
    # One of two correct with two labels each; one of four correct with four labels each.
    assert item_metrics.chance_corrected(np.array([1.0, 0.0]), [2, 2]).mean() == 0
    assert item_metrics.chance_corrected(np.array([1.0, 0, 0, 0]), [4, 4, 4, 4]).mean() == pytest.approx(0)
    assert item_metrics.chance_corrected(np.array([1.0, 1.0]), [2, 4]).tolist() == [1, 1]


def test_item_with_a_single_label_is_refused():
    with pytest.raises(UserError, match="fewer than two labels"):
        item_metrics.chance_corrected(np.array([1.0]), [1])


def test_confusion_matrix_has_gold_labels_in_rows():
    # Labels sorted: no, yes. Gold yes was predicted no twice.
    assert item_metrics.confusion(["no", "no", "yes"], ["yes", "yes", "yes"]).tolist() == [[0, 0], [2, 1]]


def test_constant_prediction_has_a_low_macro_f1():
    # Of 8 no and 2 yes: F1 of no is 2 * 8 / (8 + 10), of yes 0.
    counts = item_metrics.confusion(["no"] * 10, ["no"] * 8 + ["yes"] * 2)
    assert item_metrics.macro_f1(counts) == pytest.approx(16 / 18 / 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_macro_f1_equals_scikit_learn(pairs):
    predicted, gold = map(list, zip(*pairs, strict=True))
    expected = f1_score(gold, predicted, average="macro")
    assert item_metrics.macro_f1(item_metrics.confusion(predicted, gold)) == pytest.approx(expected)


def test_macro_f1_ignores_labels_that_do_not_occur():
    perfect, only_first = [[3, 0], [0, 2]], [[5, 0], [0, 0]]
    assert item_metrics.macro_f1(np.array([perfect, only_first])).tolist() == [1, 1]


def test_bits_and_bytes():
    # ln(1/8) nats are 3 bits; "né" is one byte and two.
    assert item_metrics.bits([np.log(1 / 8)]).tolist() == pytest.approx([3])
    assert item_metrics.utf8_lengths([" né"]).tolist() == [4]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = <<3+4=7>>7 cats.\n#### 7", "7"),
        ("#### 1,200.50\nQuestion: 3?\n#### 3", "1200.5"),
        ("So she pays $18.00.", "18"),
        ("The answer is -5.\n\nQuestion: How many are 8?", "-5"),
        ("#### $2,000 dollars, not 7", "2000"),
        ("none of them", "none"),
        ("", "none"),
    ],
)
def test_final_number_is_the_marked_one_or_else_the_last(text, number):
    assert item_metrics.final_number(text) == number
