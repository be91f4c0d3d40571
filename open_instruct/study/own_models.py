"""Models that this project did not make: a folder in transformers format or a model of the Hub, used in place."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_instruct.checkpoints.families import Checkpoint, checkpoint_of, families
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hashing import digest
from open_instruct.common.sidecars import find_sidecar, sidecar_path

HASH_CHARACTERS = 8


@dataclass(frozen=True)
class OwnModel:
    """A model of no family, which is a curve of one point."""

    model_id: str
    model_folder: Path
    """In transformers format."""
    step: None = None
    run: None = None
    stage: None = None
    num_tokens: None = None

    @property
    def family(self) -> str:
        return self.model_id

    @property
    def tuned_prefix(self) -> str:
        """First part of the ids of the models that are fine-tuned from it."""
        return self.model_id


def derived_id(name: str, folder: Path, revision: str | None) -> str:
    """An id that no other model has: `owner--name` of the Hub, or a folder's name and a hash of its full path.

    The names of folders alone are not unique: every Trainer writes a checkpoint-1000.
    """
    if not Path(name).is_dir():
        return paths.safe_name("--".join([*name.split("/"), *([revision] if revision else [])]).replace("/", "--"))
    return derived_name(folder)


def derived_name(path: Path) -> str:
    """The last part of a path, and a hash of the whole."""
    resolved = path.resolve()
    plain = re.sub(r"[^A-Za-z0-9_+-]+", "-", resolved.name).strip("-_+") or "unnamed"
    return f"{plain}-{digest(str(resolved))[:HASH_CHARACTERS]}"


def base_of(
    folder: Path, *, name: str | None = None, revision: str | None = None, model_id: str | None = None
) -> Checkpoint | OwnModel:
    """The base model in `folder`: a family's checkpoint, or a model of its own.

    name, revision: the model's on the Hub, where it is from there; model_id: that the user gives to an own model.
    Raises UserError for a model_id where the model has one already, and where it is a checkpoint of two families.
    """
    found = recorded_identity(folder)
    base: Checkpoint | OwnModel
    if found is not None and found.get("train_set") is None and found["family"] in families():
        base = Checkpoint(found["family"], found["step"], found.get("run"), found.get("stage"))
    elif found is not None:
        base = OwnModel(found["model_id"], folder)
    else:
        checkpoint = checkpoint_of(folder)
        if checkpoint is None:
            return OwnModel(
                paths.safe_name(model_id) if model_id else derived_id(name or str(folder), folder, revision), folder
            )
        base = checkpoint
    if model_id not in (None, base.model_id):
        raise UserError(f"{folder} is {base.model_id} already; leave out --model_name {model_id}")
    return base


def recorded_identity(folder: Path) -> dict[str, Any] | None:
    """The identity in the sidecar of a model that this project made; None where there is none.

    Raises UserError where the sidecar is that of something else.
    """
    sidecar = find_sidecar(folder)
    if sidecar is None:
        return None
    if "model_id" not in sidecar["identity"]:
        raise UserError(f"{sidecar_path(folder)} has no model_id; it is not the sidecar of a model")
    return {"family": None, "step": None} | sidecar["identity"]
