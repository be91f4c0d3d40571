"""Every kind of tokenizer: training, prediction and scoring have the ids of transformers' own tokenizer, or refuse."""

import itertools
import random

import pytest
from toy_tokenizers import KINDS, save_tokenizer, table
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eval.prediction import requests
from olmo_eval.instances import Instance
from olmo_eval.ranked_task import Item
from olmo_eval.ranking import encode_options
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json
from open_instruct.common.model_loading import load_tokenizer
from open_instruct.common.paths import REPOSITORY
from open_instruct.common.special_tokens import begins_with, token_ids
from open_instruct.data.encode import IGNORED, encode_examples, encode_messages, encode_prompts
from open_instruct.training.saving import save_tokenizer_and_generation_config

PAIRS = [
    ("Question: is A b?\nAnswer:", " yes and no"),
    ("### Input: naïve café \N{GRINNING FACE} 的\n ### Answer:", " 12 é, 的"),
    ("The  cat\n\n sat", " on the mat. The\tdog\n did not."),
    ("", "The cat sat."),
    ("", "QZx"),
    ("", " QZ x"),
    ("A text ends with {eos}, and begins with {bos}:", " {eos} and\n{bos}"),
    ("{eos}", " {bos}{eos}"),
    ("{bos}{bos} {eos}\n{eos}", " cat"),
]
CHAT = [
    {"role": "user", "content": "Is it so? Answer the question."},
    {"role": "assistant", "content": "Yes, it is."},
    {"role": "user", "content": "Who went\n\nhome?"},
    {"role": "assistant", "content": "Jordan did 12 é."},
]
BOOLEANS = (False, True)
TEMPLATE = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"


def spelled(tokenizer, text):
    return text.format(bos=tokenizer.bos_token, eos=tokenizer.eos_token)


def ids_of_all(tokenizer, prompt, completion):
    """Training's, prediction's and ranked classification's ids of one text, the last two followed by EOS."""
    [example], _ = encode_examples(tokenizer, [{"id": "1", "prompt": prompt, "completion": completion}], max_length=999)
    [item] = requests.encode_jointly(tokenizer, [(prompt, completion)])
    [[option]] = encode_options(tokenizer, [Instance({}, Item([prompt], [completion], 0))], max_length=999)
    [continuation], eos = item.continuations, tokenizer.eos_token_id
    assert example.labels == [IGNORED] * len(item.context) + [*continuation, eos]
    return example.ids, [*item.context, *continuation, eos], [*option.context, *option.continuation, eos]


def by_transformers(tokenizer, text):
    """The ids that transformers gives a text, without the EOS that some put after it."""
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def require_pairs(tokenizer, pairs=PAIRS):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    first = tokenizer.convert_tokens_to_ids(begins_with(tokenizer))
    for prompt, completion in ((spelled(tokenizer, one), spelled(tokenizer, other)) for one, other in pairs):
        trained, predicted, ranked = ids_of_all(tokenizer, prompt, completion)
        assert trained == predicted == ranked
        expected = by_transformers(tokenizer, prompt + completion)
        has_no_context = not first and trained[0] == eos
        assert trained == [eos] * has_no_context + expected + [eos]
        assert expected[: len(first)] == first
        assert not {bos, eos} & {*expected[len(first) :]}
        if prompt:
            alone = encode_prompts(tokenizer, [prompt])[0]
            assert trained[: len(alone)] == alone
        else:
            assert encode_prompts(tokenizer, [""]) == [first or [eos]]


def require_chats_as_by_transformers(tokenizer, folder):
    save_tokenizer_and_generation_config(tokenizer, folder)
    saved = load_tokenizer(folder)
    assert begins_with(saved) == begins_with(tokenizer)
    trained = encode_messages(tokenizer, CHAT)
    assert trained == encode_messages(saved, CHAT)
    assert trained.ids == AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, return_dict=False)
    item = {"prompt": CHAT[0]["content"], "completion": f" {CHAT[1]['content']} \n"}
    [pair] = requests.prompts_and_completions([item], [], chat=True)
    _, predicted, ranked = ids_of_all(tokenizer, *pair)
    assert predicted == ranked == trained.ids[: len(predicted)]
    assert [label for label in trained.labels[: len(predicted)] if label != IGNORED] == predicted[
        -len(answer_ids(trained)) :
    ]
    hostile = [{"role": t["role"], "content": spelled(tokenizer, "{bos} " + t["content"] + " {eos}")} for t in CHAT]
    ids = encode_messages(tokenizer, hostile).ids
    assert ids.count(tokenizer.eos_token_id) == 2
    assert ids.count(tokenizer.bos_token_id) == len(begins_with(tokenizer))


def answer_ids(trained):
    """The targets of the first answer, its EOS included."""
    start = next(i for i, label in enumerate(trained.labels) if label != IGNORED)
    return list(itertools.takewhile(lambda label: label != IGNORED, trained.labels[start:]))


@pytest.mark.parametrize("kind", KINDS)
def test_one_text_has_the_same_ids_in_training_prediction_and_scoring(tmp_path, kind):
    for number, (begins, ends, pads, templated) in enumerate(itertools.product(*[BOOLEANS] * 4)):
        folder = tmp_path / str(number)
        options = {"begins": begins, "ends": ends, "pads_with_eos": pads, "template": TEMPLATE if templated else None}
        save_tokenizer(folder, kind, **options)
        tokenizer = load_tokenizer(folder)
        assert begins_with(tokenizer) == [KINDS[kind][1][0]] * begins
        require_pairs(tokenizer)
        require_chats_as_by_transformers(tokenizer, tmp_path / f"{number}-saved")


PIECES = [
    "{bos}",
    "{eos}",
    "<unk>",
    "<pad>",
    "[UNK]",
    "<|user|>",
    "<|assistant|>\n",
    "<0x0A>",
    "\N{LOWER ONE EIGHTH BLOCK}",
]
PIECES += [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\N{NO-BREAK SPACE}",
    "a",
    "The cat",
    "no 12",
    "'s",
    ":",
    "###",
    "é",
    "e\u0301",
]
PIECES += ["的", "\N{GRINNING FACE}", "ﬁ", "</", "s>", "[", "SEP]", "<|", "end|>"]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_have_the_same_ids_everywhere(tmp_path, kind):
    draw = random.Random(0)
    for begins in BOOLEANS:
        save_tokenizer(tmp_path, kind, begins=begins)
        tokenizer = load_tokenizer(tmp_path)
        for _ in range(150):
            prompt, completion = ("".join(draw.choices(PIECES, k=draw.randrange(10))) for _ in range(2))
            require_pairs(tokenizer, [(f"x{prompt}".rstrip(), f" {completion}x")])


@pytest.mark.parametrize("kind", KINDS)
def test_add_bos_token_is_kept_by_the_saved_tokenizer(tmp_path, kind):
    bos = KINDS[kind][1][0]
    for begins, chosen in itertools.product(BOOLEANS, ("true", "false")):
        folder = tmp_path / f"{begins}-{chosen}"
        save_tokenizer(folder, kind, begins=begins)
        tokenizer = load_tokenizer(folder, add_bos_token=chosen)
        assert begins_with(tokenizer) == ([bos] if chosen == "true" else [])
        require_pairs(tokenizer)
        require_chats_as_by_transformers(tokenizer, folder / "saved")


@pytest.mark.parametrize(
    ("tokenizer_class", "kind"),
    [
        ("GPTNeoXTokenizer", "byte-level BPE (GPT-2, OLMo)"),
        ("Qwen2Tokenizer", "byte-level BPE, own pattern (Llama 3, Qwen)"),
        ("LlamaTokenizer", "SentencePiece BPE, Metaspace first (LlamaTokenizer)"),
        ("GemmaTokenizer", "SentencePiece BPE, Replace alone (Gemma)"),
        ("XGLMTokenizer", "Unigram, Metaspace always"),
    ],
)
def test_add_bos_token_is_kept_by_classes_with_habits_of_their_own(tmp_path, tokenizer_class, kind):
    model_type = {"model_type": {"GPTNeoX": "gpt_neox"}.get(tokenizer_class[:-9], tokenizer_class[:-9].lower())}
    for begins, chosen in itertools.product(BOOLEANS, ("true", "false")):
        folder = tmp_path / f"{begins}-{chosen}"
        save_tokenizer(folder, kind, begins=begins)
        config = read_json(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": tokenizer_class})
        write_json(folder / "config.json", model_type)
        tokenizer = load_tokenizer(folder, add_bos_token=chosen)
        tokenizer.save_pretrained(folder / "saved")
        write_json(folder / "saved" / "config.json", model_type)
        saved = load_tokenizer(folder / "saved")
        assert begins_with(saved) == begins_with(tokenizer) == [KINDS[kind][1][0]] * (chosen == "true")
        require_pairs(saved)
        texts = [prompt + completion for prompt, completion in PAIRS]
        assert token_ids(saved, texts)["input_ids"] == token_ids(tokenizer, texts)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_drops_tokens_after_bos(tmp_path, kind):
    save_tokenizer(tmp_path, kind, begins=True)
    tokenizer = load_tokenizer(tmp_path)
    prompt, completion = "The cat sat on the mat. " * 20 + "And", " yes"
    record = {"id": "1", "prompt": prompt, "completion": completion}
    [whole], _ = encode_examples(tokenizer, [record], max_length=999)
    [example], num_truncated = encode_examples(tokenizer, [record], max_length=20)
    assert num_truncated == 1
    assert example.ids == [tokenizer.bos_token_id, *whole.ids[-19:]]
    [item] = requests.encode_jointly(tokenizer, [(prompt, completion)])
    kept = requests.truncate(item, max_length=19, max_new_tokens=0, num_first=1)
    assert [*kept.context, *kept.continuations[0]] == example.ids[:-1]
    [[option]] = encode_options(tokenizer, [Instance({}, Item([prompt], [completion], 0))], max_length=18)
    assert [*option.context, *option.continuation] == example.ids[:-1]


@pytest.mark.parametrize("begins", BOOLEANS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "by", [("config.json", "model_type", "qwen2"), ("tokenizer_config.json", "tokenizer_class", "LlamaTokenizer")]
)
def test_a_class_that_splits_otherwise_than_the_file_is_not_used(tmp_path, kind, begins, by):
    save_tokenizer(tmp_path, kind, begins=begins)
    expected = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    file, field, name = by
    old = read_json(tmp_path / file) if (tmp_path / file).is_file() else {}
    write_json(tmp_path / file, old | {field: name})
    tokenizer = load_tokenizer(tmp_path)
    texts = [prompt + completion for prompt, completion in PAIRS if "{" not in prompt + completion]
    assert token_ids(tokenizer, texts)["input_ids"] == token_ids(expected, texts)["input_ids"]
    assert begins_with(tokenizer) == [expected.bos_token] * begins
    tokenizer.save_pretrained(tmp_path / "saved")
    if file == "config.json":
        write_json(tmp_path / "saved" / file, {field: name})
    assert token_ids(load_tokenizer(tmp_path / "saved"), texts) == token_ids(tokenizer, texts)


def test_what_cannot_be_right_is_refused_by_name(tmp_path):
    kind = next(iter(KINDS))
    save_tokenizer(tmp_path / "marks", kind, added=("<|user|>", "<|assistant|>"))
    tokenizer = load_tokenizer(tmp_path / "marks")
    require_pairs(tokenizer)
    with pytest.raises(
        UserError, match=r"marks does not take all of a chat's layout as text: .*use prompt and completion"
    ):
        encode_messages(tokenizer, CHAT)
    save_tokenizer(tmp_path / "letter", kind, added=("a",))
    with pytest.raises(UserError, match="letter cannot tell its special token 'a' from the same text in data"):
        load_tokenizer(tmp_path / "letter")
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match=r"--add_bos_token true, but the tokenizer .* has no bos_token; leave it out"):
        load_tokenizer(tmp_path / "none", add_bos_token="true")


def test_a_tokenizer_without_offsets_is_refused(tmp_path):
    save_tokenizer(tmp_path, next(iter(KINDS)))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})
    with pytest.raises(
        UserError, match="is a ByT5Tokenizer, which does not say where in the text a token is; use a model"
    ):
        load_tokenizer(tmp_path)


def test_the_documented_table_is_that_of_the_tokenizers(tmp_path):
    assert table(tmp_path) in (REPOSITORY / "docs" / "tokenizers.md").read_text()
