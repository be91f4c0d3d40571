"""Small tokenizers of every kind, trained on a few sentences, as their users' models have them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from toy_models import SENTENCES
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from olmo_eval.ranking import ids_of_parts_add_up
from open_instruct.common.model_loading import load_tokenizer
from open_instruct.common.special_tokens import spelled_tokens
from open_instruct.data.encode import chat_template

CORPUS = [
    *SENTENCES,
    "<|user|>\nIs it so?\n<|assistant|>\nYes, it is.\n<|system|>\nAnswer the question.\n",
    "Question: Who went home early?\nAnswer: Jordan did.\n\nyes no and 0123456789 naïve café",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3 = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MARK = "▁"


def byte_level(*, vocab_size: int = 400, **settings: Any) -> Tokenizer:
    """GPT-2's.  settings: of its pre-tokenizer"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False} | settings)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=settings.get("trim_offsets", True))
    return of_bytes(tokenizer, vocab_size)


def llama3() -> Tokenizer:
    """Its own pattern, words of the vocabulary as they are, offsets with their spaces."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, by_bytes])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return of_bytes(tokenizer, 400)


def nfc() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def of_bytes(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece_bpe(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    """Byte fallback and pieces as Llama-2's; what `normalizer` and `pre_tokenizer` do with spaces differs."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "always", split=True)
    special = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    trained.train_from_iterator([line for text in CORPUS for line in text.split("\n") if line], trainer)
    state = json.loads(trained.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are pieces like others
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    ends = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARK, " "), *ends])
    return tokenizer


def unigram(scheme: str, normalizer: Any = None) -> Tokenizer:
    """Its special tokens are pieces of the model, which finds them in text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, scheme)
    tokenizer.decoder = decoders.Metaspace(MARK, scheme)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    alphabet = sorted({letter for text in CORPUS for letter in text if not letter.isspace()})
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece(pre_tokenizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def end_of_word() -> Tokenizer:
    """Lower case; the last piece of a word has a mark."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


ONE_SPACE = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
SPACES = normalizers.Replace(" ", MARK)
PREPEND = normalizers.Sequence([normalizers.Prepend(MARK), SPACES])
KINDS: dict[str, tuple[Any, tuple[str, str]]] = {
    "byte-level BPE (GPT-2, OLMo)": (byte_level, ("<|begin|>", "<|end|>")),
    "byte-level BPE, offsets with spaces": (lambda: byte_level(trim_offsets=False), ("<|begin|>", "<|end|>")),
    "byte-level BPE, add_prefix_space": (lambda: byte_level(add_prefix_space=True), ("<|begin|>", "<|end|>")),
    "byte-level BPE, NFC": (nfc, ("<|begin|>", "<|end|>")),
    "byte-level BPE, own pattern (Llama 3, Qwen)": (llama3, ("<|begin|>", "<|end|>")),
    "SentencePiece BPE, Prepend and Replace (Llama 2)": (lambda: sentencepiece_bpe(PREPEND, None), ("<s>", "</s>")),
    "SentencePiece BPE, Metaspace always": (
        lambda: sentencepiece_bpe(None, pre_tokenizers.Metaspace(MARK, "always", split=True)),
        ("<s>", "</s>"),
    ),
    "SentencePiece BPE, Metaspace always, unsplit": (
        lambda: sentencepiece_bpe(None, pre_tokenizers.Metaspace(MARK, "always", split=False)),
        ("<s>", "</s>"),
    ),
    "SentencePiece BPE, Metaspace first (LlamaTokenizer)": (
        lambda: sentencepiece_bpe(None, pre_tokenizers.Metaspace(MARK, "first", split=False)),
        ("<s>", "</s>"),
    ),
    "SentencePiece BPE, Replace alone (Gemma)": (lambda: sentencepiece_bpe(SPACES, None), ("<s>", "</s>")),
    "Unigram, Metaspace always": (lambda: unigram("always"), ("<s>", "</s>")),
    "Unigram, Metaspace first": (lambda: unigram("first"), ("<s>", "</s>")),
    "Unigram, Metaspace never, NFKC": (lambda: unigram("never", normalizers.NFKC()), ("<s>", "</s>")),
    "Unigram, Metaspace always, white space collapsed (XGLM)": (lambda: unigram("always", ONE_SPACE), ("<s>", "</s>")),
    "BPE with an end of word, lower case (GPT-1)": (end_of_word, ("<s>", "</s>")),
    "whole words": (word_level, ("<s>", "</s>")),
    "WordPiece, lower case (BERT)": (lambda: word_piece(pre_tokenizers.BertPreTokenizer()), ("[CLS]", "[SEP]")),
    "WordPiece, split at spaces alone": (lambda: word_piece(pre_tokenizers.WhitespaceSplit()), ("[CLS]", "[SEP]")),
}
"""Kind -> how it is made, and the texts of its BOS and EOS."""


@cache
def trained(kind: str) -> str:
    return KINDS[kind][0]().to_str()


def save_tokenizer(
    folder: Path,
    kind: str,
    *,
    begins: bool = False,
    ends: bool = False,
    pads_with_eos: bool = False,
    template: str | None = None,
    added: tuple[str, ...] = (),
) -> None:
    """Save a tokenizer in `folder`.

    begins, ends: whether it puts BOS before and EOS after a text; added: further special tokens.
    """
    backend, (bos, eos) = Tokenizer.from_str(trained(kind)), KINDS[kind][1]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (bos, eos, *added)])
    if begins or ends:
        pieces = [bos] * begins + ["$A"] + [eos] * ends
        ids = [(token, backend.token_to_id(token)) for token in (bos, eos)]
        around = processors.TemplateProcessing(single=" ".join(pieces), special_tokens=ids)
        before = [] if backend.post_processor is None else [backend.post_processor]
        backend.post_processor = processors.Sequence([*before, around])
    pad = {"pad_token": eos} if pads_with_eos else {"pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, **pad)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def table(folder: Path) -> str:
    """What is done for each kind, in Markdown."""
    rows = [("tokenizer", "context and continuation of `run_lm_eval`", "chat", "special token spelled out")]
    for number, kind in enumerate(KINDS):
        save_tokenizer(folder / str(number), kind, begins=True)
        found = spelled_tokens(AutoTokenizer.from_pretrained(folder / str(number)))
        tokenizer = load_tokenizer(folder / str(number))
        apart = "each for itself" if ids_of_parts_add_up(tokenizer) else "as one text"
        spaced = "right, a space after each special token" if "' '" in str(chat_template(tokenizer)) else "right"
        rows.append((kind, apart, spaced, "text, split after its first character" if found else "text"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"
