"""A table of all datasets: what they are, and which source at hand has them."""

from open_instruct.common.errors import UserError
from open_instruct.common.text_table import aligned
from open_instruct.data.evaluation_files import exemplar_source
from open_instruct.data.formatting import FormatOptions, for_settings
from open_instruct.data.sources import locate
from open_instruct.tasks.declarations import EvalSet, Split, TrainSet

TRAIN_COLUMNS = ("train set", "records", "rows", "sample", "source", "recipe")
EVAL_COLUMNS = ("evaluation set", "kind", "formats", "rows", "exemplars", "source", "role")


def task_table(options: FormatOptions) -> str:
    """Train sets, then evaluation sets, a line each."""
    train_rows = [train_row(train_set, options) for train_set in options.datasets.train_sets.values()]
    eval_rows = [eval_row(eval_set, options) for eval_set in options.datasets.eval_sets.values()]
    return f"{aligned([TRAIN_COLUMNS, *train_rows])}\n\n{aligned([EVAL_COLUMNS, *eval_rows])}"


def train_row(train_set: TrainSet, options: FormatOptions) -> tuple[str, ...]:
    stores = dict.fromkeys(store_of(split, options) for split in train_set.splits)
    recipe = f"lr {train_set.lr}, {train_set.epochs} epochs" if train_set.lr and train_set.epochs else "-"
    records = "chats" if train_set.chat else "pairs"
    return (train_set.name, records, number(train_set.num_rows), number(train_set.sample), ", ".join(stores), recipe)


def eval_row(declared: EvalSet, options: FormatOptions) -> tuple[str, ...]:
    eval_set = for_settings(declared, options.settings)
    store = store_of(eval_set.split, options)
    exemplars = "none" if eval_set.exemplars is None else "missing"
    if eval_set.kind != "text" and store != "missing":
        located = locate(eval_set.split, options.place)
        if source := exemplar_source(eval_set, located, options):
            exemplars = "held back" if source == located else source.store
    formats = ", ".join(eval_set.template.prompts)
    return (eval_set.name, eval_set.kind, formats, number(eval_set.num_rows), exemplars, store, eval_set.role)


def store_of(split: Split, options: FormatOptions) -> str:
    """The source that has the split, `own` for a user's files, `hub` without a look at it; or `missing`."""
    try:
        return locate(split, options.place).store
    except UserError:
        return "missing"


def number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
