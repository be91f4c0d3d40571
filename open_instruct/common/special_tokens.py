"""Special tokens: those that a tokenizer puts before a text, and text that only spells one.

transformers takes seconds to import, so each function imports it itself.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json, write_json

AddBosToken = Literal["true", "false"]
"""Values of --add_bos_token."""
PROBE = "A a 1 的"
"""A text of which every tokenizer knows something."""


def token_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
    """transformers' encoding of `texts`: nothing is put before or after, special tokens spelled out stay text."""
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, **options)


def stored_tokenizer(file: Path) -> Any:
    """A tokenizer.json as it is, which cuts and pads nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def require_offsets(tokenizer: Any) -> None:
    """Raises UserError where the tokenizer does not say where in the text a token is."""
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} is a {type(tokenizer).__name__}, which does not say where in the "
            "text a token is; use a model whose tokenizer has a tokenizer.json"
        )


def beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by default, such as [BOS]. What it puts after a text does not count."""
    text = token_ids(tokenizer, [PROBE])["input_ids"][0]
    whole = tokenizer(PROBE)["input_ids"]
    start = next(i for i in range(len(whole) + 1) if whole[i : i + len(text)] == text)
    return whole[:start]


def begins_with(tokenizer: Any) -> list[str]:
    """`beginning` as the sidecars record it."""
    return tokenizer.convert_ids_to_tokens(beginning(tokenizer))


def with_bos(tokenizer: Any, add_bos_token: AddBosToken | None) -> Any:
    """The tokenizer, changed where needed so that by default it puts BOS before a text, or nothing; None: as it is.

    `save_pretrained` and `from_pretrained` keep the change: the result is of the general class, which takes
    tokenizer.json as it is, whereas GPT-NeoX' and others put their own habit in its place.
    Raises UserError where there is no BOS.
    """
    from transformers import PreTrainedTokenizerFast

    if add_bos_token is None:
        return tokenizer
    add = add_bos_token == "true"
    if add and tokenizer.bos_token is None:
        raise UserError(
            f"--add_bos_token true, but the tokenizer {tokenizer.name_or_path} has no bos_token; leave it out, or set "
            "bos_token in its tokenizer_config.json"
        )
    if beginning(tokenizer) == ([tokenizer.bos_token_id] if add else []):
        return tokenizer
    tokenizer.add_bos_token = add
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        config = Path(folder) / "tokenizer_config.json"
        write_json(config, read_json(config) | {"tokenizer_class": "PreTrainedTokenizerFast"})
        changed = PreTrainedTokenizerFast.from_pretrained(folder)
    changed.name_or_path = tokenizer.name_or_path
    return changed


def keep_spelled_tokens_text(tokenizer: Any) -> None:
    """Make text that spells a special token tokens of text, for vocabularies of which it is a piece (Unigram).

    Raises UserError where that does not help. Padding is masked by position, and an unknown character is the unknown
    token: these two need not differ from their text.
    """
    from tokenizers import Regex, pre_tokenizers

    spelled = spelled_tokens(tokenizer)
    if not spelled:
        return
    # The text is split after its first character, so that the model never sees the whole.
    pattern = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in spelled if len(token) > 1)
    if pattern:
        backend, split = tokenizer.backend_tokenizer, pre_tokenizers.Split(Regex(pattern), "merged_with_previous")
        before = [] if backend.pre_tokenizer is None else [backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*before, split])
    unknown = {tokenizer.unk_token, getattr(tokenizer.backend_tokenizer.model, "unk_token", None)}
    allowed = unknown | ({tokenizer.pad_token} - {tokenizer.eos_token, *begins_with(tokenizer)})
    if remaining := [token for token in spelled_tokens(tokenizer) if token not in allowed]:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} cannot tell its special token {remaining[0]!r} from the same text "
            "in data; use a tokenizer that can"
        )


def spelled_tokens(tokenizer: Any) -> list[str]:
    """The special tokens whose text is encoded as the token itself, as a word or inside one."""
    tokens = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special and str(token)}
    if not tokens:
        return []
    texts = [f"{token} a{token}a {token}" for token in tokens]
    encoded = token_ids(tokenizer, texts, return_offsets_mapping=True)
    found = []
    for (token, i), ids, offsets in zip(tokens.items(), encoded["input_ids"], encoded["offset_mapping"], strict=True):
        # A part may well be a special token: the byte token <0x3C> is the character < of its own text.
        whole = [x for x, (start, end) in zip(ids, offsets, strict=True) if end - start == len(token)]
        if i in whole:
            found.append(token)
    return found
