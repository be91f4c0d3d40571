"""Print what the stores of families have: run, stage, step, tokens, size and date of every checkpoint."""

from collections.abc import Sequence

from open_instruct.checkpoints.families import step_name
from open_instruct.checkpoints.family import Family
from open_instruct.checkpoints.listing import Available
from open_instruct.checkpoints.selection import contradicts_name, short
from open_instruct.common.text_table import aligned

COLUMNS = ("stage", "run", "step", "tokens", "GB", "date", "where")


def print_available(
    family: Family, available: Sequence[Available], *, listed: str = "", notes: Sequence[str] = ()
) -> None:
    """A line each, then the notes.  listed: date of the listing."""
    rows = [row_of(family, one) for one in available]
    # Columns without a value are left out: a family without stages has none.
    used = [n for n in range(len(COLUMNS)) if any(row[n] for row in rows) or COLUMNS[n] == "step"]
    print(aligned([[row[n] for n in used] for row in (COLUMNS, *rows)]))
    if wrong := sum(contradicts_name(family, one) for one in available):
        print(f"note: {wrong} name(s) state another number of tokens than their step gives")
    for note in notes:
        print(f"note: {note}")
    if family.caution:
        print(f"caution: {family.caution}")
    date = f", listed {listed} UTC" if listed else ""
    print(f"{len(available)} checkpoints of {family.name}{date}: {family.about}")


def row_of(family: Family, one: Available) -> list[str]:
    checkpoint = one.checkpoint
    stage = family.stage_name(checkpoint.stage) if checkpoint.step is not None else ""
    tokens = checkpoint.num_tokens
    amount = "" if tokens is None else short(tokens)
    size = "" if one.num_bytes is None else f"{one.num_bytes / 1e9:.2f}"
    note = "  (its name states another number of tokens)" if contradicts_name(family, one) else ""
    where = one.location + note
    return [stage, checkpoint.run or "", step_name(checkpoint.step), amount, size, one.date or "", where]
