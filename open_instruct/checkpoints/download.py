"""Download chosen checkpoints: described by their store first, then fetched, verified and moved into place."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from open_instruct.checkpoints.family import Family
from open_instruct.checkpoints.http_fetch import OnBytes
from open_instruct.checkpoints.listing import Available
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.markers import is_marker, marker_inside, write_marker
from open_instruct.common.ownership import require_own_working_folder

NUM_PARALLEL = 4
DISK_RESERVE_BYTES = 100 * 10**6


class Described(Protocol):
    """A checkpoint as its store describes it, before anything is downloaded."""

    @property
    def num_bytes(self) -> int: ...
    @property
    def weights(self) -> dict[str, str]: ...
    def fetch(self, folder: Path, on_bytes: OnBytes) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Choice:
    """A chosen checkpoint and the artifact to write."""

    available: Available
    asked_for: dict[str, Any]
    """`step` or `tokens` that were requested, where the nearest checkpoint has others."""
    artifact: Artifact

    @property
    def name(self) -> str:
        return self.available.name

    @property
    def partial(self) -> Path:
        """Folder of its files until all of them are verified."""
        return self.artifact.path.with_name(f".partial-{self.artifact.path.name}")


def describe_all(describe: Callable[[Available], Described], choices: Sequence[Choice]) -> list[Described]:
    """Call `describe` for every choice.  Raises UserError that names everything that the store does not have."""
    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        futures = [pool.submit(describe, choice.available) for choice in choices]
    if errors := [str(error) for future in futures if isinstance(error := future.exception(), UserError)]:
        raise UserError("; ".join(dict.fromkeys(errors)))
    return [future.result() for future in futures]


def check_disk(choices: Sequence[Choice], described: Sequence[Described]) -> None:
    """Raises UserError where the disk has no room for the bytes that are missing."""
    if not choices:
        return
    folder = next(p for p in choices[0].artifact.path.parents if p.is_dir())
    present = sum(p.stat().st_size for choice in choices for p in choice.partial.rglob("*") if p.is_file())
    total = sum(store.num_bytes for store in described)
    needed = total - present + DISK_RESERVE_BYTES
    print(f"to download: {total / 1e9:.2f} GB, {present / 1e9:.2f} GB of it present")
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; choose fewer steps")


def download_all(
    family: Family, choices: Sequence[Choice], described: Sequence[Described], *, num_parallel: int
) -> None:
    """Download every checkpoint, also after others failed.  Raises UserError with all failures."""
    total = sum(store.num_bytes for store in described)
    failures = []
    with (
        # disable=None: no progress bar in log files.
        tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1000, desc=family.name, disable=None) as bar,
        ThreadPoolExecutor(num_parallel) as pool,
    ):
        futures = [pool.submit(download, family, *pair, bar.update) for pair in zip(choices, described, strict=True)]
        for choice, future in zip(choices, futures, strict=True):
            try:
                future.result()
                bar.write(f"wrote {paths.relative(choice.artifact.path)}")
            except (UserError, OSError) as error:
                failures.append(f"{choice.name}: {error}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(choices)} failed: {'; '.join(failures)}; run the same command again to resume"
        )


def download(family: Family, choice: Choice, store: Described, on_bytes: OnBytes) -> None:
    """Download into a partial folder, which may have some of the files already; it becomes the checkpoint's folder when
    all of them are verified.
    """
    require_own_partial(choice)
    choice.partial.mkdir(parents=True, exist_ok=True)
    write_marker(marker_inside(choice.partial))
    for path in choice.partial.glob("*.part"):  # of wget
        path.rename(path.with_suffix(""))
    facts = store.fetch(choice.partial, on_bytes)
    if family.checkpoint_format == "hf":
        from open_instruct.checkpoints.sanitize import sanitize  # torch and transformers take seconds to import

        facts |= sanitize(choice.partial)
    with choice.artifact.making_folder() as (folder, recorded):
        for path in sorted(choice.partial.iterdir()):
            if path.is_file() and not is_marker(path):
                path.rename(folder / path.name)
        recorded |= {f"{what}_asked_for": value for what, value in choice.asked_for.items()}
        recorded |= facts
    shutil.rmtree(choice.partial)


def require_own_partial(choice: Choice) -> None:
    """Raises UserError where something stands in the place of the partial folder that no download wrote."""
    touch = f"`touch {marker_inside(choice.partial)}`"
    require_own_working_folder(
        choice.partial, cure=f"move it away or, if its files may be completed and replaced, {touch}"
    )
