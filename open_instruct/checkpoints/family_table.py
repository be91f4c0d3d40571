"""A table of all families of models: their format, where their checkpoints are, and tokens a step."""

from open_instruct.checkpoints.families import families
from open_instruct.checkpoints.family import Family
from open_instruct.common.text_table import aligned

COLUMNS = ("family", "format", "tokens a step", "where")
FORMATS = {"hf": "transformers", "olmo": "OLMo"}


def family_table() -> str:
    """The families of this repository and the user's own, a line each."""
    return aligned([COLUMNS, *map(row_of, families().values())])


def row_of(family: Family) -> tuple[str, ...]:
    tokens = "-" if family.tokens_per_step is None else f"{family.tokens_per_step:,}"
    hub = f"https://huggingface.co/{family.hub}, {family.revision}" if family.hub else None
    native = family.ckpt_csv and (family.urls or family.ckpt_csv)
    where = family.path or native or hub or "output/, made or put there by you"
    return family.name, FORMATS[family.checkpoint_format], tokens, where
