"""Which models are replicates of each other: the pre-training runs of a family or, with one run, the fine-tuning seeds.

A claim about pre-training or fine-tuning holds for the next run only if it was seen in several: every series of a
family with several runs has these as replicates (its seeds are averaged within each), a series of a single run its
seeds. The base model of a single run is shared by all seeds.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from open_instruct.checkpoints.families import curve_family

RUN, SEED = "pre-training run", "fine-tuning seed"
"""Values of `unit` in the tables; empty where there are no replicates."""
SHARED = ""
"""Replicate of a model that all replicates of a series share."""
FIRST_RUN = "default"
"""Replicate of a run without a name."""
FEWEST_REPLICATES = 3
"""With fewer, an effect is described, and no claim is judged."""


def label_replicates(
    rows: Sequence[dict[str, Any]], runs: Mapping[str, Collection[str | None]] | None = None
) -> list[dict[str, Any]]:
    """Add `unit` and `replicate` to rows that have their series.

    runs  those expected of each family, whether or not there is a row of each
    """
    runs_of = runs_expected(rows, runs)
    seeds_of: dict[str, set[Any]] = {}
    for row in rows:
        runs_of.setdefault(row["family"], set()).add(row.get("run"))
        seeds_of.setdefault(row["series"], set()).add(row.get("seed"))
    labelled = []
    for row in rows:
        if row["family"] is not None and len(runs_of[row["family"]]) > 1:
            label = {"unit": RUN, "replicate": row.get("run") or FIRST_RUN}
        elif row["train_set"] is not None and len(seeds_of[row["series"]]) > 1:
            label = {"unit": SEED, "replicate": str(row.get("seed"))}
        else:
            label = {"unit": None, "replicate": SHARED}
        labelled.append(row | label)
    return labelled


def families_by_stage(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, as they were measured, in which later stages are families of their own."""
    return [
        row if row.get("stage") is None else row | {"family": curve_family(row["family"], row["stage"])} for row in rows
    ]


def family_of_run(family: str, run: str | None) -> str:
    """Name of the family that a run of another architecture is."""
    return f"{family} {run or FIRST_RUN}"


def families_by_architecture(
    rows: Sequence[dict[str, Any]], architectures: Mapping[tuple[str, str | None], Any]
) -> list[dict[str, Any]]:
    """Rows in which runs of another architecture are families of their own, since no mean over them means anything.

    Those of the architecture that most runs have stay replicates; where two have as many, no run is another's.
    architectures  (family, run) -> what must be equal, of the runs of which it is known
    """
    counts: dict[str, Counter[Any]] = {}
    for (family, _), architecture in architectures.items():
        counts.setdefault(family, Counter())[architecture] += 1
    apart = set()
    for family, of_family in sorted(counts.items()):
        (usual, count), *others = of_family.most_common()
        if others:
            usual = None if others[0][1] == count else usual
            odd = {run for (name, run), found in architectures.items() if name == family and found != usual}
            apart |= {(family, run) for run in odd}
            names = ", ".join(sorted(run or FIRST_RUN for run in odd))
            print(f"note: pre-training runs of {family} are no replicates, as their architecture is another: {names}")
    return [
        row | {"family": family_of_run(row["family"], row.get("run"))}
        if (row["family"], row.get("run")) in apart
        else row
        for row in rows
    ]


def runs_expected(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Collection[str | None]] | None
) -> dict[str, set[str | None]]:
    """Family -> its expected runs, without those that are families of their own."""
    found = {row["family"] for row in rows}
    return {
        family: {run for run in names if family_of_run(family, run) not in found}
        for family, names in (runs or {}).items()
    }


def replicates_of(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Collection[str | None]] | None = None
) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    """Series -> unit, and all of its replicates: of runs those of the whole family, so that an absent one is missed."""
    of_family: dict[Any, set[str]] = {
        family: {name or FIRST_RUN for name in names}
        for family, names in runs_expected(rows, runs).items()
        if len(names) > 1
    }
    of_series: dict[str, set[str]] = {}
    about: dict[str, tuple[str | None, Any]] = {}
    for row in rows:
        about[row["series"]] = row["unit"], row["family"]
        where, name = (of_family, row["family"]) if row["unit"] == RUN else (of_series, row["series"])
        where.setdefault(name, set()).add(row["replicate"])
    return {
        series: (unit, tuple(sorted(of_family[family] if unit == RUN else of_series[series])))
        for series, (unit, family) in about.items()
    }
