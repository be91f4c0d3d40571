"""Read files of families: entries, patterns that stand for many, and every problem at once."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.family import (
    FINE_TUNED_PLACEHOLDERS,
    PLACEHOLDERS,
    RESERVED,
    Family,
    placeholders,
    problem_of_run,
)
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.yaml_files import load_yaml
from open_instruct.common.yaml_schema import parse_values

EACH = "each"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
FROM_ZERO = ("tokens_at_start", "main_step")
NUMBERS = (*FROM_ZERO, "tokens_per_step", "last_step", "num_parameters")


def read_families(path: Path) -> dict[str, Family]:
    """The families of a file by name.  Raises UserError that names every problem."""
    # The modification time is part of the cache key: a family added while a process runs is seen.
    return parse_families(path, path.stat().st_mtime_ns)


@cache
def parse_families(path: Path, _mtime_ns: int) -> dict[str, Family]:
    raw = load_yaml(path)
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{path}: expected families by name, found {found}")
    problems: list[str] = []
    families: dict[str, Family] = {}
    for entry, values in raw.items():
        for name, own in expanded(entry, values, problems):
            if name in families:
                problems.append(f"{entry}: {name} is declared twice")
            families[name] = parse_family(entry, name, own, problems, folder=path.parent)
    if problems:
        raise UserError(f"{path}: {'; '.join(dict.fromkeys(problems))}")
    return families


def expanded(name: Any, values: Any, problems: list[str]) -> Iterator[tuple[Any, Any]]:
    """An entry, or each family that a pattern with `each` stands for, with the values of its own."""
    if not isinstance(values, dict) or EACH not in values:
        yield name, values
        return
    each = values[EACH]
    is_valid = isinstance(each, dict) and each and all(one and isinstance(one, list | dict) for one in each.values())
    if not is_valid or set(each) != set(placeholders(str(name))):
        problems.append(f"{name}: {EACH} needs a list or mapping of the values of every {{name}} in the family's name")
        return
    if taken := sorted(each.keys() & PLACEHOLDERS.keys()):
        problems.append(f"{name}: {EACH} has {', '.join(taken)}, which patterns of revisions have; choose another name")
        return
    mappings = [own for choices in each.values() if isinstance(choices, dict) for own in choices.values()]
    if wrong := [own for own in mappings if own is not None and not isinstance(own, dict)]:
        problems.append(f"{name}: {EACH} has {wrong[0]!r}, expected a mapping of what only that value has, or nothing")
        return
    rest = {key: value for key, value in values.items() if key != EACH}
    for chosen in product(*each.values()):
        named = dict(zip(each, map(str, chosen), strict=True))
        own = dict(rest)
        for choices, value in zip(each.values(), chosen, strict=True):
            own |= (choices[value] or {}) if isinstance(choices, dict) else {}
        yield filled(name, named), filled(own, named)


def filled(value: Any, named: Mapping[str, str]) -> Any:
    """`value` with the names in braces replaced, in every string inside."""
    if isinstance(value, dict):
        return {key: filled(one, named) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, named) for one in value]
    if isinstance(value, str):
        for name, text in named.items():
            value = value.replace(f"{{{name}}}", text)
    return value


def parse_family(entry: Any, name: Any, values: Any, problems: list[str], *, folder: Path) -> Any:
    """Build a Family from its section of the file, which is in `folder`.  Adds every problem to `problems`."""
    if not isinstance(name, str) or not paths.is_safe(name):
        problems.append(f"{name}: expected a name of letters, digits and . _ + - only")
    if not isinstance(values, dict) or {"name", "entry"} & values.keys():
        problems.append(f"{name}: expected a mapping without `name` and `entry`, found {values!r}")
        return None
    if isinstance(values.get("ckpt_csv"), str):
        values = values | {"ckpt_csv": str(folder / values["ckpt_csv"])}
    stages = values.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    found = [*store_problems(values, stages), *pattern_problems(values, ("revision", "urls", "path"))]
    if stages and "revision" in values:
        found.append("revision: with stages, each of them has its own")
    for stage, own in stages.items():
        own = own if isinstance(own, dict) else {}
        found += [f"stages.{stage}: {problem}" for problem in pattern_problems(own, ("revision",))]
        found += [f"stages.{stage}: {problem}" for problem in number_problems(own)]
    found += [*number_problems(values), *run_problems(values, stages), *stage_problems(stages)]
    problems += [f"{name}: {problem}" for problem in found]
    return parse_values(Family, values | {"name": str(name), "entry": str(entry)}, key=str(name), errors=problems)


def store_problems(values: Mapping[str, Any], stages: Mapping[str, Any]) -> Iterator[str]:
    fine_tuned = values.get("fine_tuned")
    fine_tuned = fine_tuned if isinstance(fine_tuned, dict) else {}
    for key, hub in (("hub", values.get("hub")), ("hub of fine_tuned", fine_tuned.get("hub"))):
        if hub is not None and not REPOSITORY.fullmatch(str(hub)):
            yield f"{key} is {hub!r}, expected OWNER/NAME of a repository on the Hub"
    run_hub = values.get("run_hub")
    if run_hub is not None:
        if placeholders(str(run_hub)) != ["run"] or not REPOSITORY.fullmatch(str(run_hub).replace("{run}", "run")):
            yield f"run_hub is {run_hub!r}, expected OWNER/NAME with {{run}} in it, once"
        if not values.get("runs") or not values.get("hub"):
            yield "run_hub needs `runs`, their names, and `hub`, which holds the run without a name"
    if isinstance(values.get("ckpt_csv"), str) and values.get("checkpoint_format") != "olmo":
        yield "ckpt_csv lists native checkpoints; add checkpoint_format: olmo, or leave it out"
    if fine_tuned and sorted(placeholders(str(fine_tuned.get("revision", "")))) != sorted(FINE_TUNED_PLACEHOLDERS):
        expected = ", ".join(f"{{{one}}}" for one in FINE_TUNED_PLACEHOLDERS)
        yield f"revision of fine_tuned is {fine_tuned.get('revision')}, expected {expected}, each once"
    if "path" in values:
        if {"hub", "run_hub", "urls", "ckpt_csv"} & values.keys():
            yield "path is a folder of yours; leave out hub, run_hub, urls and ckpt_csv"
        if stages:
            yield "path takes {step} and {run}, not stages; declare a family for each"
        if not Path(str(values["path"])).is_absolute():
            yield f"path is {values['path']}, expected an absolute path"
        if "tokens" in placeholders(str(values["path"])):
            yield "path takes {step} and {run}, not {tokens}"


def pattern_problems(values: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        given = values.get(key, "")
        for pattern in map(str, given if isinstance(given, list) else (given,)):
            names = placeholders(pattern)
            if {"{", "}"} & set(re.sub(r"{\w*}", "", pattern)):
                yield f"{key} is {pattern}, which has a brace without its other one"
            if unknown := [one for one in names if one not in PLACEHOLDERS]:
                yield f"{key} names {', '.join(unknown)}; known: {', '.join(PLACEHOLDERS)}"
            elif len(set(names)) < len(names) or (names and "step" not in names):
                yield f"{key} is {pattern}, expected {{step}}, and each name once"


def number_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for key in NUMBERS:
        least = 0 if key in FROM_ZERO else 1
        if isinstance(values.get(key), int | float) and not least <= values[key] < math.inf:
            yield f"{key} is {values[key]}, expected {least} or more"


def run_problems(values: Mapping[str, Any], stages: Mapping[str, Any]) -> Iterator[str]:
    """Problems of the names of runs, which become part of folder names and ids."""
    runs = values.get("runs", [])
    runs = runs if isinstance(runs, list) else [runs]
    for run in runs:
        if problem := problem_of_run(str(run), stages):
            yield f"runs: {problem}"
    if len(set(map(str, runs))) < len(runs):
        yield f"runs: expected each once, found {', '.join(map(str, runs))}"
    if values.get("main_run") is not None and values["main_run"] not in runs:
        yield f"main_run is {values['main_run']}, expected one of `runs`"


def stage_problems(stages: Mapping[str, Any]) -> Iterator[str]:
    names = list(map(str, stages))
    for number, (stage, own) in enumerate(stages.items()):
        if not paths.is_safe(str(stage)) or stage in RESERVED:
            others = " and ".join(RESERVED)
            yield f"stages: expected names of letters, digits and . _ + - only, other than {others}, found {stage!r}"
        if longer := [one for one in names if one.startswith(f"{stage}_")]:
            yield f"stages: {longer[0]} begins like {stage}; the two could share a folder"
        own = own if isinstance(own, dict) else {}
        if "{step}" not in str(own.get("revision")):
            yield f"stages.{stage}: expected a revision with {{step}}, found {own.get('revision', 'none')}"
        if twin := next((one for one in names[:number] if revisions(stages[one]) & revisions(own)), None):
            yield f"stages.{stage}: a revision is also one of {twin}; expected names of its own"
        if {"after", "tokens_at_start"} <= own.keys():
            yield f"stages.{stage}: choose one of after and tokens_at_start"
        after = own.get("after")
        if after is not None and after not in names[:number]:
            yield f"stages.{stage}: after is {after}, expected an earlier stage: {', '.join(names[:number]) or 'none'}"
        elif after is not None and not (isinstance(stages[after], dict) and stages[after].get("last_step")):
            yield f"stages.{stage}: it begins after {after}, whose last_step is not given"


def revisions(stage: Any) -> set[str]:
    given = stage.get("revision", ()) if isinstance(stage, dict) else ()
    return set(map(str, given if isinstance(given, list) else (given,)))
