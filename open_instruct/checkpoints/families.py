"""Look up families of models with pre-training checkpoints, and name their checkpoints.

Families are declared in families.yaml beside this file and, for the user's own, in $base_dir/families.yaml.
"""

import fnmatch
import math
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from glob import glob
from pathlib import Path

from open_instruct.checkpoints.family import MAIN, Family, pattern_regex
from open_instruct.checkpoints.family_files import read_families
from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest

BUILT_IN = Path(__file__).with_name("families.yaml")
EMBEDDED = "tiny"
"""The family that pretrain_tiny.py makes."""
CONVERTED = "_tf_ckpts"
"""End of the name of the folder of a family's checkpoints in transformers format."""


def family_named(name: str) -> Family:
    """Look up a family.  Raises UserError, with the nearest known names, for an unknown one."""
    known = families()
    if name not in known:
        raise UserError(f"unknown family {name} ({nearest(name, known)}); add your own to families.yaml in base_dir")
    return known[name]


def families() -> dict[str, Family]:
    """Every family by name.  Raises UserError that names every problem of an invalid file."""
    built_in, own = BUILT_IN, paths.base_dir() / "families.yaml"
    try:
        changed = own.stat().st_mtime_ns
    except FileNotFoundError:
        return read_families(built_in)
    return both(built_in, own, built_in.stat().st_mtime_ns, changed)


@cache
def both(built_in: Path, own: Path, _built_in_mtime_ns: int, _own_mtime_ns: int) -> dict[str, Family]:
    known, added = read_families(built_in), read_families(own)
    if twice := sorted(added.keys() & known.keys()):
        raise UserError(f"{own}: {', '.join(twice)} is a family of this repository; give yours another name")
    return known | added


def families_like(pattern: str) -> list[str]:
    """Names of the families of a pattern such as `datadecide-*-150M`, or the name itself.

    Raises UserError for a pattern of none.
    """
    if not set("*?[") & set(pattern):
        return [pattern]
    if found := fnmatch.filter(families(), pattern):
        return found
    raise UserError(f"no family is like {pattern}; see `python open_instruct/download_olmo_ckpts.py --list_families`")


def step_name(step: int | None) -> str:
    """`592000`, or `main` for the released final weights."""
    return MAIN if step is None else str(step)


def step_order(step: int | None) -> float:
    """Sort key of steps: ascending, `main` last."""
    return math.inf if step is None else step


def curve_family(family: str, stage: str | None) -> str:
    """Name in tables and claims of the family of a checkpoint: a later stage is a family of its own.

    It counts its own steps and has its own runs, so that its step 1000 is no other model's step 1000.
    """
    return family if stage is None else f"{family} {stage}"


@dataclass(frozen=True)
class Checkpoint:
    """One point of one family's pre-training."""

    family: str
    step: int | None
    """Number of optimiser steps, of the stage's own where it counts its own; None for the released weights, `main`."""
    run: str | None = None
    """Name of the pre-training run, of a family that has several."""
    stage: str | None = None
    """Name of the stage of pre-training; None for the first, or the only one."""

    # What is cached is asked for many times by a plan of tens of thousands of jobs.
    @cached_property
    def declared(self) -> Family:
        return family_named(self.family)

    @cached_property
    def stem(self) -> str:
        """Family, stage and run, as folder names have them."""
        return "_".join(part for part in (self.family, self.stage, self.run) if part is not None)

    @property
    def name(self) -> str:
        """Folder name: `checkpoint-592000` or `main`."""
        return MAIN if self.step is None else f"checkpoint-{self.step}"

    @property
    def place(self) -> str:
        """For messages: `stage2 of run 1, checkpoint-592000`."""
        parts = [self.stage, None if self.run is None else f"run {self.run}"]
        return ", ".join([" of ".join(part for part in parts if part), self.name] if any(parts) else [self.name])

    @property
    def tuned_prefix(self) -> str:
        """First part of the ids of the models that are fine-tuned from it: `olmo1b_hf_ckpt592000`."""
        return f"{self.stem}_hf_{MAIN if self.step is None else f'ckpt{self.step}'}"

    @cached_property
    def model_id(self) -> str:
        parts = [part for part in (self.stage, self.run) if part is not None]
        return paths.safe_name(self.declared.prefix + "_".join([*parts, self.name]))

    @cached_property
    def num_tokens(self) -> int | None:
        """Number of tokens seen in pre-training, all stages included."""
        return self.declared.num_tokens(self.step, self.stage)

    @cached_property
    def folder(self) -> Path:
        """Folder of the checkpoint as its family has it: the user's own, or where a download puts it."""
        family = self.declared
        if (own := family.folder(self.step, self.run)) is not None:
            return own
        if family.checkpoint_format == "olmo":
            return paths.native_checkpoint(self.stem, self.name)
        return paths.converted_checkpoint(self.stem, self.name)

    @cached_property
    def model_folder(self) -> Path:
        """Folder in transformers format: that of the family, or the converted one."""
        if self.declared.checkpoint_format == "olmo":
            return paths.converted_checkpoint(self.stem, self.name)
        return self.folder

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer that a conversion takes."""
        return paths.tokenizer_dir(self.stem if self.family == EMBEDDED else self.family)


def checkpoint_of(folder: Path) -> Checkpoint | None:
    """The checkpoint of a family whose model is in `folder`.  Raises UserError where it is one of several families."""
    # As it is given first: a family's path may lead through links.
    for place in (Path(os.path.abspath(folder)), folder.resolve()):
        found = [one for family in families().values() if (one := checkpoint_in(family, place))]
        if len(found) > 1:
            both_ids = " and ".join(f"{one.model_id} of family {one.family}" for one in found)
            raise UserError(f"{folder} is {both_ids}; change `path` of one family in families.yaml, or remove it")
        if found:
            return found[0]
    return None


def checkpoint_in(family: Family, folder: Path) -> Checkpoint | None:
    """The checkpoint whose model, in transformers format, is in `folder`; None where it is none of `family`.

    folder: absolute, with or without links.
    """
    own = family.path if family.checkpoint_format == "hf" else None
    run, stage = None, None
    if own is None:
        stem = folder.parent.name.removesuffix(CONVERTED)
        if not stem.startswith(family.name) or not paths.is_safe(stem):
            return None  # another family's, or a folder of the user's
        if stem != family.name and stem in families():
            return None  # olmo1b_hf is a family, not the run `hf` of olmo1b
        rest = stem.removeprefix(family.name).removeprefix("_")
        stage = next((one for one in family.by_stage if one and (rest == one or rest.startswith(f"{one}_"))), None)
        run = rest.removeprefix(stage or "").removeprefix("_")
        match = re.fullmatch(rf"{MAIN}|checkpoint-(?P<step>\d+)", folder.name)
    else:
        patterns = (os.path.normpath(own), str(Path(own).resolve()))
        matches = (pattern_regex(pattern).fullmatch(str(folder)) for pattern in patterns)
        match = next((one for one in matches if one), None)
    if match is None:
        return None
    groups = match.groupdict()
    step = int(groups["step"]) if groups.get("step") else None
    found = Checkpoint(family.name, step, groups.get("run", run) or None, stage)
    return found if found.model_folder.resolve() == folder.resolve() else None


def checkpoints_on_disk(family: Family) -> list[Checkpoint]:
    """Those of a family that are there in transformers format."""
    own = family.path if family.checkpoint_format == "hf" else None
    pattern = own or str(paths.base_dir() / "output" / f"{family.name}*{CONVERTED}" / "*")
    folders = [Path(os.path.normpath(name)) for name in glob(re.sub(r"{\w+}", "*", pattern))]
    found = [checkpoint_in(family, folder) for folder in folders if (folder / "config.json").is_file()]
    return sorted((one for one in found if one), key=lambda one: (one.stage or "", one.run or "", step_order(one.step)))
