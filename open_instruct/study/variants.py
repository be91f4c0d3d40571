"""The identity of a model, from which every folder, file and model id is made."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import Checkpoint
from open_instruct.common import paths
from open_instruct.common.naming import in_words, named, short_float, shortened, suffix
from open_instruct.study.own_models import OwnModel, base_of, recorded_identity
from open_instruct.study.settings import DEFAULT_SEED, TrainingOptions

IDENTITY_FIELDS = ("model_id", "family", "stage", "run", "step", "tokens", "train_set", "epochs", "lr")
IDENTITY_FIELDS += ("rows", "batch_size", "seed", "adapter", "settings")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is fine-tuned on its train set, beside epochs and learning rate."""

    data_settings: str = ""
    """Suffix of the train file's name."""
    adapter: str = named("full", "{}")
    """`full` (all weights are trained) or `lora`."""
    rows: int | None = named(None, "rows{}")
    """Train on the first `rows` formatted rows (None: all)."""
    batch_size: int = named(8, "bs{}")
    """Examples per optimiser step."""
    mixed_precision: str = "bf16"
    is_adapter: bool = False
    """The adapter alone is kept: the same model, in a folder of another name."""
    is_published: bool = False
    """Others fine-tuned and published it: their software, data and seed."""
    options: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = DEFAULT_SEED

    @property
    def settings(self) -> str:
        """Everything without a column of its own that differs from the default: `_fp32_warmup0.1`."""
        precision = {"bf16": "", "no": "_fp32"}.get(self.mixed_precision, f"_{self.mixed_precision}")
        options = suffix(self.options.relevant(is_lora=self.adapter != "full"))
        return precision + options + ("_published" if self.is_published else "")

    @property
    def suffix(self) -> str:
        return suffix(self) + self.settings + ("" if self.seed == DEFAULT_SEED else f"_seed{self.seed}")


@dataclass(frozen=True)
class Variant:
    """One model: a base model, or the same fine-tuned. All names come from here; none is parsed."""

    checkpoint: Checkpoint | OwnModel
    train_set: str | None = None
    epochs: int | None = None
    lr: float | None = None
    recipe: Recipe = Recipe()

    @cached_property
    def model_id(self) -> str:
        if self.train_set is None:
            return self.checkpoint.model_id
        trained = f"{self.train_set}{self.recipe.data_settings}_{self.epochs}epoch_{short_float(self.lr or 0.0)}"
        return paths.safe_name(shortened(f"{self.checkpoint.tuned_prefix}_{trained}{self.recipe.suffix}"))

    @cached_property
    def folder(self) -> Path:
        """Folder of the model, in transformers format."""
        if self.train_set is None:
            return self.checkpoint.model_folder
        return paths.fine_tuned_model(self.model_id + ("_adapter" if self.recipe.is_adapter else ""))

    def identity(self) -> dict[str, Any]:
        """IDENTITY_FIELDS and their values, as sidecars and tables have them."""
        identity: dict[str, Any] = dict.fromkeys(IDENTITY_FIELDS) | {
            "model_id": self.model_id,
            "family": self.checkpoint.family,
            "stage": self.checkpoint.stage,
            "run": self.checkpoint.run,
            "step": self.checkpoint.step,
            "tokens": self.checkpoint.num_tokens,
        }
        if self.train_set is None:
            return identity
        recipe = asdict(self.recipe)
        identity |= {"train_set": self.train_set, "epochs": self.epochs, "lr": self.lr}
        identity |= {name: recipe[name] for name in ("rows", "batch_size", "seed", "adapter")}
        identity |= {"seed": None} if self.recipe.is_published else {}
        settings = self.recipe.data_settings + self.recipe.settings
        return identity | {"settings": in_words(settings)}


def identify(
    folder: Path, *, name: str | None = None, revision: str | None = None, model_id: str | None = None
) -> dict[str, Any]:
    """IDENTITY_FIELDS of the model in `folder`, base or fine-tuned (own_models.base_of explains the arguments)."""
    base = base_of(folder, name=name, revision=revision, model_id=model_id)
    found = recorded_identity(folder)
    return dict.fromkeys(IDENTITY_FIELDS) | (Variant(base).identity() if found is None else found)
