"""Checkpoints on the Hub: the revisions of a family's repository, listed, described, downloaded and verified."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download

from open_instruct.checkpoints.families import Checkpoint, step_order
from open_instruct.checkpoints.family import ALL, MAIN, Family, Revision, problem_of_run
from open_instruct.checkpoints.file_content import check_content
from open_instruct.checkpoints.http_fetch import OnBytes
from open_instruct.checkpoints.hub_listing import NUM_PARALLEL, ListedRevision, described, listing_of
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import hub_errors
from open_instruct.common.json_files import read_json
from open_instruct.common.model_files import INDEX, SHARDS, VOCABULARIES, WEIGHTS

FORMATS = (
    (WEIGHTS, SHARDS, INDEX),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
)
"""Patterns of the weights and their index: alternatives, safetensors preferred."""
# Code in a repository is never downloaded.
TOKENIZER = (*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
NEXT_STEP = "try again later"


@dataclass(frozen=True)
class HubFile:
    num_bytes: int
    sha256: str | None
    """Of large files."""
    git_id: str
    """SHA-1 of the git object: of the content of small files."""


@dataclass(frozen=True)
class Snapshot:
    """The files of a model at one revision, as the Hub describes them."""

    repository: str
    revision: str
    commit: str
    files: dict[str, HubFile]
    tokenizer: "Snapshot | None" = None
    """The tokenizer of `main`, where this revision has none of its own."""

    @property
    def num_bytes(self) -> int:
        own = sum(file.num_bytes for file in self.files.values())
        return own + (self.tokenizer.num_bytes if self.tokenizer else 0)

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of every file of weights, by name."""
        return {n: f.sha256 for n, f in self.files.items() if f.sha256 and n.endswith((".safetensors", ".bin"))}

    def fetch(self, folder: Path, on_bytes: OnBytes) -> dict[str, Any]:
        """Download the files to `folder`; returns their description."""
        for part in (self, self.tokenizer) if self.tokenizer else (self,):
            fetch_files(part, folder)
        on_bytes(self.num_bytes)
        return {"downloaded": dataclasses.asdict(self)}


@dataclass(frozen=True)
class Listed:
    """The checkpoints of a family on the Hub."""

    available: Sequence[Available]
    """By stage, run and step, `main` last."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    listed: str = ""
    """UTC, of the oldest listing."""


def list_hub(
    family: Family, *, runs: Sequence[str] | None = None, cached: bool = False, replace_kept: bool = False
) -> Listed:
    """The checkpoints among the branches and tags of the family's repositories, of all stages.

    runs: of repositories that hold one run each, only these or `all`, every one of which is needed (None: those that
    can be listed); cached, replace_kept: take the listing on the disk, or replace it.
    Raises UserError where that of one of `runs`, or every one, cannot be listed, or no revision has a known name.
    """
    is_every = runs is None or ALL in runs
    wanted = {name: run for name, run in family.repositories.items() if is_every or not run or run in (runs or ())}
    found, notes, dates = dict[Checkpoint, list[Available]](), list[str](), list[str]()
    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        listings = {name: pool.submit(listing_of, name, cached=cached, replace_kept=replace_kept) for name in wanted}
    errors = {name: str(error) for name, one in listings.items() if isinstance(error := one.exception(), UserError)}
    needed = () if runs is None else runs or (MAIN,)
    named = [name for name, run in wanted.items() if {run or MAIN, ALL} & set(needed)]
    if failed := [errors[name] for name in named if name in errors]:
        raise UserError("; ".join(failed))
    if len(errors) == len(wanted):
        raise UserError(next(iter(errors.values())))
    for repository, run in wanted.items():
        if repository in errors:
            notes.append(f"left out: {errors[repository]}")
            continue
        listing = listings[repository].result()
        dates.append(listing.listed)
        others = []
        for revision in listing.revisions:
            parsed = parsed_name(family, revision.name)
            if parsed is None or (parsed.run is not None and problem_of_run(parsed.run, family.stages)):
                others.append(revision.name)
                continue
            checkpoint = Checkpoint(family.name, parsed.step, run or parsed.run, parsed.stage)
            about = {"num_bytes": revision.num_bytes, "date": revision.date, "commit": revision.commit}
            same = found.setdefault(checkpoint, [])
            if revision.commit not in [other.commit for other in same]:
                same.append(Available(checkpoint, revision.name, parsed.tokens, repository, **about))
        if others:
            notes.append(f"{repository}: left out {len(others)} revision(s) of other names, e.g. {others[0]}")
    for checkpoint, twice in list(found.items()):
        if len(twice) > 1:
            names = " and ".join(one.location for one in twice)
            notes.append(f"{twice[0].repository}: left out {checkpoint.place}: {names} both name it, and differ")
            del found[checkpoint]
    available = [one for (one,) in found.values()]
    if not any(one.checkpoint.step is not None for one in available) and family.patterns != (MAIN,):
        raise UserError(
            f"{', '.join(wanted)} has no revision like {', '.join(family.patterns)}; correct `revision` of "
            + "; ".join([family.name, *notes])
        )
    if runs is None and family.runs:
        known = {one.checkpoint.run for one in available if one.checkpoint.run}
        notes += [f"run {run} is not in families.yaml" for run in sorted(known - set(family.runs))]
        absent = [run for run in family.runs if run not in known and family.repository(run) not in errors]
        notes += [f"run {run} of families.yaml is not in the list" for run in absent]
    return Listed(sorted(available, key=partial(order_of, family)), notes, min(dates))


def with_details(available: Sequence[Available]) -> list[Available]:
    """Ask the Hub for sizes and dates that are not known.  Raises UserError where it fails."""
    by_repository: dict[str, list[str]] = {}
    for one in available:
        by_repository.setdefault(one.repository, []).append(one.location)
    known: dict[tuple[str, str], ListedRevision] = {}
    for repository, names in by_repository.items():
        listing = described(listing_of(repository, cached=True), names)
        known |= {(repository, revision.name): revision for revision in listing.revisions}
    both = [(one, known[one.repository, one.location]) for one in available]
    return [replace(one, num_bytes=revision.num_bytes, date=revision.date) for one, revision in both]


def parsed_name(family: Family, name: str) -> Revision | None:
    """What the name of a revision says, `main` included where the family has one."""
    if name == MAIN:
        return Revision(None, run=family.main_run) if family.has_main else None
    return family.parse_revision(name)


def order_of(family: Family, one: Available) -> tuple[int, bool, str, float]:
    stage, run = one.checkpoint.stage, one.checkpoint.run
    return list(family.by_stage).index(stage), run is not None, run or "", step_order(one.checkpoint.step)


def describe_snapshot(family: Family, one: Available) -> Snapshot:
    """The files of the model at a revision.

    Raises UserError where it has no weights in a supported format, neither it nor `main` a tokenizer's vocabulary, or
    its config names code of the repository for a model that transformers does not have.
    """
    repository, revision = one.repository, one.location
    commit, listed = list_files(repository, revision)
    weights = next((patterns for patterns in FORMATS if matching(listed, patterns[:2])), None)
    if weights is None or "config.json" not in listed:
        raise UserError(f"{repository} {revision} has no config.json with {WEIGHTS} or pytorch_model.bin")
    if family.checkpoint_format == "hf":
        require_own_architecture(repository, revision, commit)
    model = ("config.json", "generation_config.json", *weights)
    if matching(listed, VOCABULARIES) or family.tokenizer:
        return Snapshot(repository, revision, commit, matching(listed, (*model, *TOKENIZER)))
    main_commit, main_listed = list_files(repository, MAIN)
    if not matching(main_listed, VOCABULARIES):
        raise UserError(
            f"{repository} {revision} has no tokenizer.json (nor {', '.join(VOCABULARIES[1:])}), and `main` has none; "
            "tell its owners, or put both into a folder and declare it by `path:` in families.yaml"
        )
    tokenizer = Snapshot(repository, MAIN, main_commit, matching(main_listed, TOKENIZER))
    return Snapshot(repository, revision, commit, matching(listed, model), tokenizer)


def require_own_architecture(repository: str, revision: str, commit: str) -> None:
    """Raises UserError where the model is computed by code of the repository, which is never downloaded nor run."""
    with hub_errors(f"{repository} {revision}", next_step=NEXT_STEP):
        config = read_json(Path(hf_hub_download(repository, "config.json", revision=commit)))
    if not isinstance(config, dict):
        raise UserError(f"{repository} {revision}: config.json is a {type(config).__name__}, expected an object")
    if not (code := config.get("auto_map")):
        return
    from transformers import CONFIG_MAPPING  # takes seconds to import

    if str(config.get("model_type")) not in CONFIG_MAPPING:
        raise UserError(
            f"{repository} {revision} needs code of its own repository ({str(code)[:200]}): transformers has no model "
            f"type {config.get('model_type')!r}, and code from the Hub is never run; choose another family"
        )


def list_files(repository: str, revision: str) -> tuple[str, dict[str, HubFile]]:
    """The commit of `revision`, and the files in its top folder."""
    with hub_errors(f"{repository} {revision}", next_step=NEXT_STEP):
        commit = HfApi().model_info(repository, revision=revision).sha or revision
        entries = [e for e in HfApi().list_repo_tree(repository, revision=commit) if isinstance(e, RepoFile)]
    return commit, {e.path: HubFile(e.size, e.lfs.sha256 if e.lfs else None, e.blob_id) for e in entries}


def matching(listed: dict[str, HubFile], patterns: Sequence[str]) -> dict[str, HubFile]:
    return {name: file for name, file in sorted(listed.items()) if any(fnmatch.fnmatch(name, p) for p in patterns)}


def fetch_files(snapshot: Snapshot, folder: Path) -> None:
    """Download the files to `folder`, resuming what is there; a wrong file is downloaded a second time.

    Raises UserError where the Hub fails, or a file is not the one it described.
    """
    where = f"{snapshot.repository} {snapshot.revision}"
    wrong: dict[str, str] = {}
    for _attempt in range(2):
        with hub_errors(where, next_step=NEXT_STEP):
            snapshot_download(
                snapshot.repository, revision=snapshot.commit, local_dir=folder, allow_patterns=list(snapshot.files)
            )
            wrong = wrong_files(snapshot, folder)
        if not wrong:
            return
        for name in wrong:
            (folder / name).unlink(missing_ok=True)
    raise UserError(f"{where}: {'; '.join(map(' '.join, wrong.items()))}")


def wrong_files(snapshot: Snapshot, folder: Path) -> dict[str, str]:
    """Name -> reason, for each file that differs from the Hub's description or is not of its kind."""
    found = HfApi().verify_repo_checksums(snapshot.repository, revision=snapshot.commit, local_dir=folder)
    wrong = dict.fromkeys(found.missing_paths, "is missing")
    wrong |= {m["path"]: f"has the {m['algorithm']} {m['actual']}, expected {m['expected']}" for m in found.mismatches}
    wrong = {name: reason for name, reason in wrong.items() if name in snapshot.files}
    for name in snapshot.files.keys() - wrong:
        try:
            check_content(folder / name, name, deep=False)
        except ValueError as error:
            wrong[name] = str(error)
    return wrong
