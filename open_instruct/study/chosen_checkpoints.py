"""The checkpoints that a study file means: steps as they are given, or chosen from what a store listed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

from open_instruct.checkpoints.families import Checkpoint, family_named
from open_instruct.checkpoints.family import ALL, MAIN, Family
from open_instruct.checkpoints.hub_listing import listing_file
from open_instruct.checkpoints.hub_store import list_hub
from open_instruct.checkpoints.listing import Available, read_checkpoint_csv
from open_instruct.checkpoints.selection import Wanted, choose_each, parse_tokens
from open_instruct.common.errors import UserError
from open_instruct.common.yaml_schema import Aliases

Steps = tuple[Annotated[int | str | None, Aliases({MAIN: None, ALL: ALL})], ...]


@dataclass(frozen=True)
class StageConfig:
    """The checkpoints of one stage of pre-training: by `steps` or by `tokens`, of each of its runs."""

    steps: Steps = ()
    """Pre-training steps of its checkpoints, ascending; `main` (None) is the released final model; `all`: every one."""
    tokens: tuple[str, ...] = ()
    """Numbers of tokens seen, 500M or 1.5T: the nearest checkpoint of each run, within a quarter."""
    runs: tuple[str, ...] = ()
    """Names of its pre-training runs, each of which has these checkpoints; `all`: every one."""

    @property
    def needs_list(self) -> bool:
        """Whether its checkpoints follow from what the store has."""
        return bool(self.tokens) or ALL in (*self.steps, *self.runs)


@dataclass(frozen=True)
class FamilyConfig(StageConfig):
    """The checkpoints of one family, of its first or only stage."""

    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Those of later stages."""


def checkpoints_of(name: str, config: FamilyConfig) -> list[Checkpoint]:
    """Those of one family, stage by stage and run by run.

    Raises UserError for an unknown family or stage, and where the choice needs a list that is not on this disk, or that
    has no such checkpoint.
    """
    family = family_named(name)
    by_stage = {family.stage_named(stage): own for stage, own in config.stages.items()}
    if config.steps or config.tokens:
        if None in by_stage:
            raise UserError(
                f"family {name}: {family.stage_name(None)} is given twice; its steps are those without a stage"
            )
        by_stage = {None: config, **by_stage}
    return [checkpoint for stage, own in by_stage.items() for checkpoint in of_stage(family, stage, own)]


def of_stage(family: Family, stage: str | None, config: StageConfig) -> list[Checkpoint]:
    if not config.needs_list:
        runs = [family.run_named(run) for run in config.runs] or [family.main_run if stage is None else None]
        if len(set(runs)) < len(runs):
            raise UserError(f"family {family.name}: runs are {', '.join(config.runs)}, expected each once")
        return [Checkpoint(family.name, step, run, stage) for run in runs for step in numbers(config.steps)]
    wanted = Wanted(
        steps=numbers(config.steps),
        tokens=parse_tokens(config.tokens) if config.tokens else (),
        every=ALL in config.steps,
        nearest=bool(config.tokens),
    )
    stages = [family.stage_name(stage)] if family.stages else []
    chosen = choose_each(family, listed(family, config.runs), wanted, runs=config.runs, stages=stages)
    return [one.available.checkpoint for one in chosen]


def numbers(steps: Steps) -> tuple[int | None, ...]:
    """Those that are steps, and not `all`."""
    return tuple(step for step in steps if not isinstance(step, str))


def listed(family: Family, runs: tuple[str, ...]) -> Sequence[Available]:
    """What the family's store has of these runs (`all`: of every one), from a list on this disk.

    Raises UserError where there is none.
    """
    if family.ckpt_csv:
        return read_checkpoint_csv(Path(family.ckpt_csv), family)
    if not family.hub:
        raise UserError(f"family {family.name} has no store that lists its checkpoints; give their steps")
    files = [listing_file(repository) for repository in family.repositories]
    needed = runs if family.run_hub else (ALL,)  # one list has all of them
    return listed_on_hub(family, needed, tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files))


@cache
def listed_on_hub(family: Family, runs: tuple[str, ...], _mtimes_ns: tuple[int, ...]) -> Sequence[Available]:
    return list_hub(family, runs=runs, cached=True).available


def has_listing(family: Family, run: str | None) -> bool:
    """Whether what the store has of a run was listed on this disk."""
    return family.hub is not None and listing_file(family.repository(run)).is_file()
