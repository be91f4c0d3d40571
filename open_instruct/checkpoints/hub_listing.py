"""Names of the revisions of a repository on the Hub, kept on the disk with the date at which they were listed.

Writes  output/listings/{owner}--{name}.json: {"repository", "listed", "revisions": [{"name", "commit", …}]}
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import HubUnreachableError, hub_errors
from open_instruct.common.json_files import read_json, write_json

NUM_PARALLEL = 8


@dataclass(frozen=True)
class ListedRevision:
    """A branch or tag of a repository."""

    name: str
    commit: str
    num_bytes: int | None = None
    """Of its files, where the Hub was asked."""
    date: str | None = None
    """Of its commit, where the Hub was asked: `2024-05-17`."""


@dataclass(frozen=True)
class Listing:
    repository: str
    listed: str
    """UTC: `2026-11-28 11:40`."""
    revisions: tuple[ListedRevision, ...]


def listing_file(repository: str) -> Path:
    return paths.base_dir() / "output" / "listings" / f"{paths.safe_name(repository.replace('/', '--'))}.json"


def listing_of(repository: str, *, cached: bool, replace_kept: bool = False) -> Listing:
    """The revisions that the Hub lists now or, with `cached`, that it listed before.

    replace_kept: the listing on the disk, which studies are planned from, becomes that of now; a first one is kept.
    Raises UserError where the Hub fails, with the date of the listing on the disk if there is one; and where one is
    required and there is none.
    """
    try:
        kept = kept_listing(repository)
    except UserError:
        if cached or not replace_kept:
            raise
        kept = None  # damaged, and to be replaced
    if cached:
        if kept is None:
            raise UserError(
                f"{repository}: no listing on this disk ({paths.relative(listing_file(repository))}); run `python "
                "open_instruct/download_olmo_ckpts.py --family … --list` where there is a network, and copy it here"
            )
        return kept
    from huggingface_hub import HfApi

    next_step = f"add --cached to take the listing of {kept.listed} UTC" if kept else "try again later"
    with hub_errors(repository, next_step=next_step):
        refs = HfApi().list_repo_refs(repository)
    known = {(one.name, one.commit): one for one in kept.revisions} if kept else {}
    found = [ListedRevision(ref.name, ref.target_commit) for ref in (*refs.tags, *refs.branches)]
    revisions = tuple(known.get((one.name, one.commit), one) for one in found)
    listing = Listing(repository, f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}", revisions)
    if replace_kept or kept is None:
        keep(listing)
    return listing


def kept_listing(repository: str) -> Listing | None:
    """The listing on the disk.  Raises UserError where the file is something else."""
    path = listing_file(repository)
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        if found["repository"] != repository:
            raise UserError(f"{path} lists {found['repository']}, expected {repository}; delete it")
        revisions = tuple(revision_of(**one) for one in found["revisions"])
        return Listing(repository, str(found["listed"]), revisions)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no listing of a repository ({error}); delete it, and list again") from error


def revision_of(name: Any, commit: Any, num_bytes: Any = None, date: Any = None) -> ListedRevision:
    """One entry of a listing.  Raises ValueError where it is none."""
    are_texts = isinstance(name, str) and isinstance(commit, str) and isinstance(date, str | None)
    if not are_texts or not isinstance(num_bytes, int | None):
        raise ValueError(f"a revision is {[name, commit, num_bytes, date]}"[:200])
    return ListedRevision(name, commit, num_bytes, date)


def keep(listing: Listing) -> None:
    path = listing_file(listing.repository)
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"{path.parent} is a file, expected a folder; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(listing))


def described(listing: Listing, names: Sequence[str]) -> Listing:
    """Ask the Hub for the size and date of these revisions, where they are not known; kept on the disk.

    Raises UserError where the Hub fails.
    """
    missing = [one for one in listing.revisions if one.name in set(names) and one.date is None]
    if not missing:
        return listing
    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        found = dict(zip(missing, pool.map(lambda one: details(listing.repository, one), missing), strict=True))
    listing = replace(listing, revisions=tuple(found.get(one, one) for one in listing.revisions))
    keep(listing)
    return listing


def details(repository: str, revision: ListedRevision) -> ListedRevision:
    """One revision with size and date; without them where the Hub refuses to say."""
    from huggingface_hub import HfApi

    try:
        with hub_errors(f"{repository} {revision.name}", next_step="try again later"):
            info = HfApi().model_info(repository, revision=revision.commit, files_metadata=True)
    except HubUnreachableError:
        raise
    except UserError:
        return revision
    num_bytes = sum(file.size or 0 for file in info.siblings or ())
    date = info.last_modified
    return replace(revision, num_bytes=num_bytes, date=f"{date:%Y-%m-%d}" if date else None)
