"""What is in the grid, and what each thing in it is called.

A study is a YAML file (scripts/studies/*.yaml): a family, some of its checkpoints, train sets with their recipes,
and what every model is asked. `Variant` is the one identity from which every folder, file and model id is made.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from open_instruct import paths
from open_instruct.checkpoints import Checkpoint, family_named
from open_instruct.cli import nearest
from open_instruct.records import UserError
from open_instruct.tasks import FORMATS, PROTOCOLS, eval_set_named, train_set_named

DEFAULT_SEED = 42


@dataclass(frozen=True)
class Recipe:
    """How one train set is trained on."""

    epochs: int
    """Passes over the train set."""
    lr: float
    """Peak learning rate."""
    batch_size: int = 8
    """Examples per optimiser step, over all processes."""
    rows: int | None = None
    """Train on this many of the formatted rows only (None: all of them)."""
    mixed_precision: str = "bf16"


@dataclass(frozen=True)
class EvalPlan:
    """How one evaluation set is put to every model."""

    formats: tuple[str, ...] = ("default",)
    limit: int | None = None
    """Ask only this many items, drawn once, the same for every model (None: all of them)."""


@dataclass(frozen=True)
class SuitePlan:
    """Ranked classification with `olmo_eval.run_lm_eval`."""

    tasks: tuple[str, ...]
    limit: int | None = None
    train_sets: tuple[str, ...] = ()
    """Train sets whose models sit the suite, beside every base model."""


@dataclass(frozen=True)
class PretrainPlan:
    """Pre-training of the embedded model (family `tiny` only); 2,048 tokens a step."""

    d_model: int
    num_layers: int
    num_heads: int
    vocab_size: int
    lr: float


@dataclass(frozen=True)
class Study:
    name: str
    family: str
    steps: tuple[int, ...]
    """Pre-training steps of the checkpoints, ascending."""
    train_sets: dict[str, Recipe]
    evaluation: dict[str, EvalPlan]
    suite: SuitePlan | None = None
    pretrain: PretrainPlan | None = None
    protocol: str = "corrected"
    shots: int = 0
    max_new_tokens: int = 60
    seed: int = DEFAULT_SEED

    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.family, step) for step in self.steps]

    def variants(self) -> Iterator["Variant"]:
        """Every model of the grid: each checkpoint as it is, then fine-tuned on each train set."""
        for checkpoint in self.checkpoints():
            yield Variant(checkpoint)
            for train_set, recipe in self.train_sets.items():
                yield Variant(checkpoint, train_set, recipe.epochs, recipe.lr, self.seed)


@dataclass(frozen=True)
class Variant:
    """One model: a checkpoint as it is, or fine-tuned. All names come from here; no code takes a name apart."""

    checkpoint: Checkpoint
    train_set: str | None = None
    epochs: int | None = None
    lr: float | None = None
    seed: int = DEFAULT_SEED
    adapter: str = "full"
    """`full` (all weights are trained) or `lora`."""

    @property
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
        """Where the model lies, in transformers format."""
        if self.train_set is None:
            return paths.converted_checkpoint(self.checkpoint.family, self.checkpoint.name)
        return paths.fine_tuned_model(self.model_id)

    def identity(self) -> dict[str, Any]:
        """What sidecars and tables say of a model."""
        return {
            "model_id": self.model_id,
            "family": self.checkpoint.family,
            "step": self.checkpoint.step,
            "tokens": self.checkpoint.num_tokens,
            "train_set": self.train_set,
            "epochs": self.epochs,
            "lr": self.lr,
            "seed": self.seed if self.train_set else None,
            "adapter": self.adapter if self.train_set else None,
        }


def short_float(value: float) -> str:
    """A learning rate as the paper writes it: 2e-06 -> `2e-6`, 1.5e-6 -> `1.5e-6`, 0.001 -> `1e-3`."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def load_study(path: Path) -> Study:
    """Read and check a study file.  Raises UserError that names every problem at once."""
    if not path.is_file():
        raise UserError(f"{path}: no such study; studies lie in scripts/studies/")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    problems: list[str] = []
    study = build(Study, raw, where="", problems=problems)
    if study is not None and not problems:
        problems += check_study(study)
    if study is None or problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    return study


def build(kind: type, raw: Any, *, where: str, problems: list[str]) -> Any:
    """A dataclass from plain YAML values. Unknown, missing and mistyped keys are added to `problems`."""
    if not isinstance(raw, dict):
        problems.append(f"{where or 'the file'}: expected a mapping, found {type(raw).__name__}")
        return None
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in raw:
        if key not in fields:
            problems.append(f"unknown key {prefix}{key} ({nearest(str(key), fields)})")
    values = {}
    for name, spec in fields.items():
        if name in raw:
            values[name] = convert(hints[name], raw[name], where=prefix + name, problems=problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"missing key {prefix}{name}")
    return None if problems else kind(**values)


def convert(hint: Any, raw: Any, *, where: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in args if arg is not type(None))
        return None if raw is None else convert(inner, raw, where=where, problems=problems)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, where=where, problems=problems)
    if origin is tuple:
        items = raw if isinstance(raw, list) else [raw]
        return tuple(convert(args[0], item, where=f"{where}[{i}]", problems=problems) for i, item in enumerate(items))
    if origin is dict:
        if not isinstance(raw, dict):
            problems.append(f"{where}: expected a mapping, found {raw!r}")
            return {}
        items = {key: {} if value is None else value for key, value in raw.items()}
        return {key: convert(args[1], value, where=f"{where}.{key}", problems=problems) for key, value in items.items()}
    try:
        # PyYAML reads 1e-3 as a string and 5 as an int; a float key takes both.
        value = float(raw) if hint is float and not isinstance(raw, bool) else raw
    except (TypeError, ValueError):
        value = raw
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        problems.append(f"{where}: expected {hint.__name__}, found {raw!r}")
    return value


def check_study(study: Study) -> list[str]:
    """Everything wrong with a well-formed study, as sentences."""
    problems: list[str] = []

    def note(check: typing.Callable[[], Any]) -> None:
        try:
            check()
        except UserError as error:
            problems.append(str(error))

    note(lambda: paths.safe_name(study.name))
    note(lambda: family_named(study.family))
    for name in study.train_sets:
        note(lambda name=name: train_set_named(name))
    for name, plan in study.evaluation.items():
        note(lambda name=name: eval_set_named(name))
        unknown = [f for f in plan.formats if f not in FORMATS]
        problems += [f"unknown format {f} of {name} ({nearest(f, FORMATS)})" for f in unknown]
    if study.protocol not in PROTOCOLS:
        problems.append(f"unknown protocol {study.protocol} ({nearest(study.protocol, PROTOCOLS)})")
    if list(study.steps) != sorted(set(study.steps)) or not study.steps:
        problems.append(f"steps: expected ascending numbers, each once, found {list(study.steps)}")
    if (study.family == "tiny") != (study.pretrain is not None):
        problems.append("pretrain: belongs to family tiny, and only to it")
    for name in study.suite.train_sets if study.suite else ():
        if name not in study.train_sets:
            problems.append(f"suite.train_sets: {name} is not trained on ({nearest(name, study.train_sets)})")
    return problems
