"""The settings that affect the content of formatted files, and the suffix that they give to the files' names."""

import re
from dataclasses import dataclass
from typing import Literal

from open_instruct.tasks import PROTOCOLS
from open_instruct.tasks.declarations import Protocol

DEFAULT_SEED = 42
SUFFIX_AT_END = re.compile(r"_(paper|papersplits|overlap-[a-z]+|dropempty|unlabelled|anyrows|dataseed\d+)$")
"""Ends of names that would be mistaken for a suffix."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Those of a study's section `format`."""

    paper_splits: bool = False
    """Evaluate on the paper's splits with the corrected protocol too (rte, tweetqa: train; sciq: test)."""
    overlap: Literal["by_protocol", "drop", "keep", "refuse"] = "by_protocol"
    """Train rows that are also in the evaluation set: leave them out, keep them, or stop. By protocol: corrected drops,
    paper keeps. They are always counted."""
    drop_empty: bool = False
    """Leave out rows with an empty prompt or completion, and count them (default: refuse the set)."""
    allow_unlabelled: bool = False
    """Format sets whose labels are hidden or all the same, as in the paper; accuracy on them measures nothing."""
    any_row_count: bool = False
    """Format sources with another number of rows than declared, such as a part of a dataset."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(DataOptions):
    protocol: Literal["corrected", "paper"] = "corrected"
    """How data are prepared: correctly, or as in the paper (docs/data.md)."""
    seed: int = DEFAULT_SEED
    """Seed of the train sample and of the exemplars."""

    @property
    def rules(self) -> Protocol:
        return PROTOCOLS[self.protocol]

    @property
    def overlap_rule(self) -> str:
        """`drop`, `keep` or `refuse`."""
        return self.rules.overlap if self.overlap == "by_protocol" else self.overlap

    @property
    def uses_paper_splits(self) -> bool:
        return self.paper_splits or self.rules.splits == "paper"

    @property
    def suffix(self) -> str:
        """What differs from the default, as the end of a file's name: `_paper_dataseed7`; empty for the defaults.

        Settings with the same effect have the same suffix: `--overlap drop` is what the corrected protocol does.
        """
        differing = {
            self.protocol: self.protocol != "corrected",
            "papersplits": self.uses_paper_splits and self.rules.splits != "paper",
            f"overlap-{self.overlap_rule}": self.overlap_rule != self.rules.overlap,
            "dropempty": self.drop_empty,
            "unlabelled": self.allow_unlabelled,
            "anyrows": self.any_row_count,
            f"dataseed{self.seed}": self.seed != DEFAULT_SEED,
        }
        return "".join(f"_{part}" for part, differs in differing.items() if differs)
