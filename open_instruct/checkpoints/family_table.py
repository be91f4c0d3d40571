"""A table of all families of models: their format, where their checkpoints are, runs, stages and tokens a step."""

from collections.abc import Sequence

from open_instruct.checkpoints.families import families
from open_instruct.checkpoints.family import Family
from open_instruct.common.text_table import aligned

COLUMNS = ("family", "number", "format", "runs", "stages", "tokens a step", "where")
FORMATS = {"hf": "transformers", "olmo": "OLMo"}


def family_table() -> str:
    """The families of this repository and the user's own, a line each; those of one pattern are one line."""
    entries: dict[str, list[Family]] = {}
    for family in families().values():
        entries.setdefault(family.entry, []).append(family)
    return aligned([COLUMNS, *(row_of(entry, own) for entry, own in entries.items())])


def row_of(entry: str, own: Sequence[Family]) -> tuple[str, ...]:
    first = own[0]
    steps = sorted(
        {stage.tokens_per_step or one.tokens_per_step or 0 for one in own for stage in one.by_stage.values()}
    )
    tokens = " to ".join(f"{n:,}" for n in dict.fromkeys((steps[0], steps[-1]))) if steps[-1] else "-"
    hub = f"https://huggingface.co/{first.hub}, {first.patterns[0]}" if first.hub else None
    native = first.ckpt_csv and (first.urls or first.ckpt_csv)
    where = first.path or native or hub or "output/, made or put there by you"
    more = f" and {len(own) - 1} more like it" if len(own) > 1 else ""
    runs = str(len(first.runs) + bool(first.run_hub)) if first.runs else "-"
    stages = ", ".join(first.stages) or "-"
    return entry, str(len(own)), FORMATS[first.checkpoint_format], runs, stages, tokens, where + more
