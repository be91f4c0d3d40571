"""The smallest gains that a planned study can show, from the noise of its earlier results or from stated defaults.

Imports neither pandas nor the tables, so that a plan is printed at once.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.inference.error_parts import LEVEL
from analysis.inference.power import POWER, smallest_detectable_effect
from analysis.tables.columns import BITS, FILES, METRIC_LABELS
from analysis.tables.replicates import FEWEST_REPLICATES, RUN, SEED
from open_instruct.checkpoints.families import curve_family
from open_instruct.study.config import Study

ITEM_SD = {"rouge_l": 0.15, BITS: 0.3}
ACCURACY_ITEM_SD = 0.5
"""Standard deviation over items of fine-tuned - base, where nothing was measured."""
REPLICATE_SD = 0.02
"""Standard deviation of a gain between replicates, where nothing was measured."""
Row = Mapping[str, str]
"""Of variation.csv."""


@dataclass(frozen=True)
class OwnTask:
    """A train set and its evaluation set, in the default format, and how often a family's gain on it is seen."""

    family: str
    train_set: str
    eval_set: str
    metric: str
    unit: str
    replicates: int
    items: int


class Noise(NamedTuple):
    item_error: float
    replicate_sd: float
    shared: float
    """Share of the squared item error that the replicates share."""
    items: float
    """Independent ones."""
    source: str


def planned_effects(study: Study, num_items: Callable[[str], int], results: Path) -> Iterator[str]:
    """Lines on the smallest gain of each own-task evaluation and metric that a test of it alone shows.

    num_items  items of an evaluation set
    results    folder of the study's results, where there may be some of an earlier run
    """
    tasks = list(own_tasks(study, num_items))
    if not tasks:
        return
    rows = earlier_rows(results / FILES["variation"])
    yield f"\nsmallest gain by fine-tuning that a test at {LEVEL:.0%} of one claim alone shows with {POWER:.0%} power:"
    yield from by_family(tasks, lambda task: f"  {smallest_gain(task, rows)}")
    yield from by_family(tasks, what_to_add)


def by_family(tasks: Sequence[OwnTask], line_of: Callable[[OwnTask], str | None]) -> Iterator[str]:
    """Each line once, with the families of which it is, where there are several."""
    families: dict[str, dict[str, None]] = {}
    for task in tasks:
        if line := line_of(task):
            families.setdefault(line, {})[task.family] = None
    number = len({task.family for task in tasks})
    for line, found in families.items():
        where = f"in each of {number} families" if len(found) == number else f"in {', '.join(found)}"
        yield line if number == 1 else f"{line}, {where}"


def smallest_gain(task: OwnTask, rows: Sequence[Row]) -> str:
    replicates = max(task.replicates, FEWEST_REPLICATES)
    found = noises_of(task, rows)
    effects = [
        smallest_detectable_effect(one.item_error, one.replicate_sd, replicates, one.items, shared=one.shared)
        for one in found
    ]
    worst = int(np.argmax(effects))
    planned = "" if task.replicates == replicates else f", {task.replicates} planned"
    plan = f"{replicates} {task.unit}s{planned}, {task.items} items"
    label = METRIC_LABELS.get(task.metric, task.metric)
    return f"{task.eval_set}, {label}: {effects[worst]:.3g} ({plan}; {found[worst].source})"


def own_tasks(study: Study, num_items: Callable[[str], int]) -> Iterator[OwnTask]:
    runs: dict[str, set[str | None]] = {}
    for checkpoint in study.checkpoints():
        runs.setdefault(curve_family(checkpoint.family, checkpoint.stage), set()).add(checkpoint.run)
    for family, of_family in runs.items():
        for train_set, recipe in study.train_sets.items():
            several_seeds = len(of_family) == 1 and len(recipe.seeds) > 1
            unit = SEED if several_seeds else RUN
            replicates = len(recipe.seeds) if several_seeds else len(of_family)
            for eval_set, config in study.evaluation.items():
                spec = study.datasets.eval_set(eval_set)
                if spec.role == f"in-domain of {train_set}" and "default" in config.formats:
                    for metric in dict.fromkeys((spec.metric, BITS)):
                        yield OwnTask(family, train_set, eval_set, metric, unit, replicates, num_items(eval_set))


def earlier_rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def noises_of(task: OwnTask, rows: Sequence[Row]) -> list[Noise]:
    """Of every earlier series and setting of the task, or the default."""
    wanted = {"family": task.family, "train_set": task.train_set, "eval_set": task.eval_set, "metric": task.metric}
    wanted |= {"format": "default"}
    found = [noise_of(task, row) for row in rows if all(row[name] == value for name, value in wanted.items())]
    return [noise for noise in found if noise] or [default_noise(task)]


def noise_of(task: OwnTask, row: Row) -> Noise | None:
    """The measured noise, with as many items as are planned now; None where nothing varied, as if all scores are 0."""
    if not float(row["gain_item_error"] or 0.0) or not row["items"]:
        return None
    more_items = task.items / float(row["items"])
    independent = float(row["n"] or row["items"]) * more_items
    error = float(row["gain_item_error"]) / np.sqrt(more_items)
    is_same_unit = row["unit"] == task.unit and bool(row["gain_replicate_sd"])
    sd = float(row["gain_replicate_sd"]) if is_same_unit else REPLICATE_SD
    shared = float(row["gain_shared_items"] or 1.0)
    source = f"noise of {row['replicates']} {task.unit}s in earlier results"
    if not is_same_unit:
        source = f"item noise of earlier results, {task.unit} SD {REPLICATE_SD:g} assumed"
    return Noise(error, sd, shared, independent, source)


def default_noise(task: OwnTask) -> Noise:
    sd = ITEM_SD.get(task.metric, ACCURACY_ITEM_SD)
    source = f"assumed: item SD of a difference {sd:g}, {task.unit} SD {REPLICATE_SD:g}"
    return Noise(sd / np.sqrt(task.items), REPLICATE_SD, 1.0, task.items, source)


def what_to_add(task: OwnTask) -> str | None:
    """What a task with too few replicates needs before any claim on it can be judged; None where it has enough."""
    more = FEWEST_REPLICATES - task.replicates
    if more <= 0:
        return None
    ways = [f"{more} more pre-training run{'s' if more > 1 else ''} (runs, or pretrain.seeds)"] * (task.unit == RUN)
    if task.unit == SEED or task.replicates == 1:
        ways += [f"{more} more in train_sets.{task.train_set}.seeds"]
    planned = f"{task.replicates} {task.unit}{'s' if task.replicates > 1 else ''}"
    return f"no claim on {task.train_set} can be judged with {planned}: add {', or '.join(ways)}"
