"""Models that others fine-tuned from a family's checkpoints and published, each as a revision of one repository.

They have no sidecars, so that their names alone say what they are: like the importer of the released tables
(analysis/tables/released.py), this module takes names apart. A downloaded model has a sidecar with its identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from huggingface_hub import HfApi

from open_instruct.checkpoints.families import Checkpoint, families, step_name, step_order
from open_instruct.checkpoints.family import ALL, MAIN, Family, pattern_regex
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError, nearest
from open_instruct.common.hub_errors import hub_errors


@dataclass(frozen=True, kw_only=True)
class FineTuned(Available):
    """One published model; `checkpoint` is what it was fine-tuned from."""

    train_set: str
    epochs: int
    lr: float

    @property
    def name(self) -> str:
        return self.location


def store_of(family: Family) -> Family:
    """The family with the repository of its published fine-tuned models in place of its own stores.

    Raises UserError where it has none.
    """
    if family.fine_tuned is None:
        known = ", ".join(name for name, one in families().items() if one.fine_tuned)
        raise UserError(
            f"no published fine-tuned models of family {family.name} are known, only of {known}; add `fine_tuned:` to "
            "the family in families.yaml in base_dir"
        )
    hub = family.fine_tuned.hub
    own = {"urls": None, "ckpt_csv": None, "tokenizer": None, "run_hub": None, "runs": (), "stages": {}}
    return replace(family, hub=hub, checkpoint_format="hf", **own)


def list_fine_tuned(family: Family, train_sets: Sequence[str]) -> list[FineTuned]:
    """The published models of these train sets (`all`), by train set, recipe and step.

    Revisions of other names are left out, and counted. Raises UserError where two have the same identity, where none
    has a name of the pattern, and for a train set that none was fine-tuned on.
    """
    assert family.fine_tuned is not None
    hub, pattern = family.fine_tuned.hub, family.fine_tuned.revision
    with hub_errors(hub, next_step="try again later"):
        refs = HfApi().list_repo_refs(hub)
    names = [ref.name for ref in (*refs.branches, *refs.tags) if ref.name != MAIN]
    found: dict[FineTuned, str] = {}
    others = []
    for name in dict.fromkeys(names):
        one = parse(family, pattern, name)
        if one is None:
            others.append(name)
        elif (first := found.setdefault(replace(one, location=""), name)) != name:
            raise UserError(f"{hub}: revisions {first} and {name} have the same identity; tell its owners")
    if others:
        print(f"{hub}: left out {len(others)} revision(s) of other names than {pattern}, e.g. {others[0]}")
    if not found:
        raise UserError(f"{hub} has no revision like {pattern}; correct `fine_tuned` of {family.name}")
    known = dict.fromkeys(one.train_set for one in found)
    for name in train_sets:
        if name not in (*known, ALL):
            raise UserError(f"{hub} has no models that were fine-tuned on {name} ({nearest(name, known)})")
    chosen = [replace(one, location=name) for one, name in found.items() if {one.train_set, ALL} & set(train_sets)]
    return sorted(chosen, key=lambda one: (one.train_set, one.epochs, one.lr, step_order(one.checkpoint.step)))


def parse(family: Family, pattern: str, name: str) -> FineTuned | None:
    """The model that a revision's name says it is; None where it does not follow the pattern."""
    match = pattern_regex(pattern).fullmatch(name)
    if match is None:
        return None
    checkpoint = Checkpoint(family.name, int(match["step"]) if match["step"] else None)
    recipe = {"epochs": int(match["epochs"]), "lr": float(match["lr"])}
    return FineTuned(
        checkpoint,
        name,
        repository=family.fine_tuned.hub if family.fine_tuned else "",
        train_set=match["train_set"],
        **recipe,
    )


def choose_fine_tuned(available: Sequence[FineTuned], steps: Sequence[int | None]) -> list[FineTuned]:
    """Those fine-tuned from the checkpoints of these steps (none given: of all); a train set that lacks one is named.

    Raises UserError that names the steps that no model is of.
    """
    known = {one.checkpoint.step for one in available}
    if missing := [step_name(step) for step in steps if step not in known]:
        has = ", ".join(step_name(step) for step in sorted(known, key=step_order))
        raise UserError(f"no published model was fine-tuned from step {', '.join(missing)}; expected some of {has}")
    train_sets = dict.fromkeys(one.train_set for one in available)
    published = {(one.train_set, one.checkpoint.step) for one in available}
    pairs = [(name, step) for name in train_sets for step in steps if (name, step) not in published]
    if pairs:
        print(f"not published, left out: {', '.join(f'{name} of step {step_name(step)}' for name, step in pairs)}")
    return [one for one in available if not steps or one.checkpoint.step in steps]
