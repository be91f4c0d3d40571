"""The identity of a model, from which every folder, file and model id is made."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths

DEFAULT_SEED = 42
IDENTITY_FIELDS = ("model_id", "family", "step", "tokens", "train_set", "epochs", "lr", "seed", "adapter")


@dataclass(frozen=True)
class Variant:
    """One model: a pre-training checkpoint, or the same fine-tuned. All names come from here; none is parsed."""

    checkpoint: Checkpoint
    train_set: str | None = None
    epochs: int | None = None
    lr: float | None = None
    seed: int = DEFAULT_SEED
    adapter: str = "full"
    """`full` (all weights are trained) or `lora`."""

    @cached_property
    def model_id(self) -> str:
        if self.train_set is None:
            return self.checkpoint.model_id
        name = f"{self.checkpoint.family}_hf_{self.checkpoint.short_name}_{self.train_set}"
        name += f"_{self.epochs}epoch_{short_float(self.lr or 0.0)}"
        name += "" if self.adapter == "full" else f"_{self.adapter}"
        name += "" if self.seed == DEFAULT_SEED else f"_seed{self.seed}"
        return paths.safe_name(name)

    @property
    def folder(self) -> Path:
        """Folder of the model, in transformers format."""
        if self.train_set is None:
            return paths.converted_checkpoint(self.checkpoint.family, self.checkpoint.name)
        return paths.fine_tuned_model(self.model_id)

    def identity(self) -> dict[str, Any]:
        """IDENTITY_FIELDS and their values, as sidecars and tables have them."""
        is_tuned = self.train_set is not None
        values = (
            self.model_id,
            self.checkpoint.family,
            self.checkpoint.step,
            self.checkpoint.num_tokens,
            self.train_set,
            self.epochs,
            self.lr,
            self.seed if is_tuned else None,
            self.adapter if is_tuned else None,
        )
        return dict(zip(IDENTITY_FIELDS, values, strict=True))


def short_float(value: float) -> str:
    """A learning rate as the paper writes it: 2e-06 -> `2e-6`, 1.5e-6 -> `1.5e-6`, 0.001 -> `1e-3`."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
