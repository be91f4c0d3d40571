"""Families of models with intermediate pre-training checkpoints, and what each checkpoint is called."""

from dataclasses import dataclass

from open_instruct.cli import nearest
from open_instruct.records import UserError


@dataclass(frozen=True)
class Family:
    name: str
    """Stands in folder names and model ids."""
    about: str
    tokens_per_step: int
    checkpoint_format: str
    """`olmo` (config.yaml + model.pt, to be converted) or `hf` (transformers)."""
    base_prefix: str = ""
    """Before the ids of base models, so that two families in one output folder cannot be confused."""
    hub: str | None = None


FAMILIES = {
    family.name: family
    for family in (
        # 2048 sequences of 2048 tokens a step (OLMo paper, arXiv 2402.00838); ids as the study's authors wrote them.
        Family("olmo1b", "OLMo-1B", 4_194_304, "olmo", hub="allenai/OLMo-1B"),
        # Pre-trained here by pretrain_tiny.py: 8 sequences of 256 tokens a step.
        Family("tiny", "small OLMo made by pretrain_tiny.py", 2_048, "olmo", base_prefix="tiny_"),
    )
}


def family_named(name: str) -> Family:
    """Raises UserError, with the nearest known names, where there is none."""
    if name not in FAMILIES:
        raise UserError(f"unknown family {name} ({nearest(name, FAMILIES)})")
    return FAMILIES[name]


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
        return family_named(self.family).base_prefix + self.name

    @property
    def num_tokens(self) -> int | None:
        """Tokens of text seen in pre-training."""
        return None if self.step is None else self.step * family_named(self.family).tokens_per_step
