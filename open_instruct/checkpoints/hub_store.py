"""Checkpoints on the Hub: the revisions of a family's repository, listed, described, downloaded and verified."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoFile, snapshot_download

from open_instruct.checkpoints.families import MAIN, Checkpoint, Family, step_order
from open_instruct.checkpoints.file_content import check_content
from open_instruct.checkpoints.http_fetch import OnBytes
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import hub_errors
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


def list_hub(family: Family) -> list[Available]:
    """The checkpoints among the repository's branches and tags, by step, `main` last."""
    assert family.hub is not None
    with hub_errors(family.hub, next_step=NEXT_STEP):
        refs = HfApi().list_repo_refs(family.hub)
    found: dict[int | None, Available] = {}
    for ref in (*refs.tags, *refs.branches):
        parsed = (None, None) if ref.name == MAIN else family.parse_revision(ref.name)
        if parsed is None:
            continue
        step, tokens = parsed
        if step in found and found[step].location != ref.name:
            raise UserError(f"{family.hub}: revisions {found[step].location} and {ref.name} are both of step {step}")
        found[step] = Available(Checkpoint(family.name, step), ref.name, tokens)
    if not found.keys() - {None} and family.revision != MAIN:
        raise UserError(f"{family.hub} has no revision like {family.revision}; correct `revision` of {family.name}")
    return [found[step] for step in sorted(found, key=step_order)]


def describe_snapshot(family: Family, revision: str) -> Snapshot:
    """The files of the model at `revision`.

    Raises UserError where it has no weights in a supported format, or neither it nor `main` a tokenizer's vocabulary.
    """
    commit, listed = list_files(family, revision)
    weights = next((patterns for patterns in FORMATS if matching(listed, patterns[:2])), None)
    if weights is None or "config.json" not in listed:
        raise UserError(f"{family.hub} {revision} has no config.json with {WEIGHTS} or pytorch_model.bin")
    model = ("config.json", "generation_config.json", *weights)
    if matching(listed, VOCABULARIES):
        return Snapshot(str(family.hub), revision, commit, matching(listed, (*model, *TOKENIZER)))
    main_commit, main_listed = list_files(family, MAIN)
    if not matching(main_listed, VOCABULARIES):
        raise UserError(
            f"{family.hub} {revision} has no tokenizer.json (nor {', '.join(VOCABULARIES[1:])}), and `main` has none; "
            "tell its owners, or put both into a folder and declare it by `path:` in families.yaml"
        )
    tokenizer = Snapshot(str(family.hub), MAIN, main_commit, matching(main_listed, TOKENIZER))
    return Snapshot(str(family.hub), revision, commit, matching(listed, model), tokenizer)


def list_files(family: Family, revision: str) -> tuple[str, dict[str, HubFile]]:
    """The commit of `revision`, and the files in its top folder."""
    assert family.hub is not None
    with hub_errors(f"{family.hub} {revision}", next_step=NEXT_STEP):
        commit = HfApi().model_info(family.hub, revision=revision).sha or revision
        entries = [e for e in HfApi().list_repo_tree(family.hub, revision=commit) if isinstance(e, RepoFile)]
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
