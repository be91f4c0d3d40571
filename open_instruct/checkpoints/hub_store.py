"""Checkpoints on the Hub: revisions of a family's repository, described before and verified after they are fetched."""

import dataclasses
import fnmatch
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, RepoFile, snapshot_download

from open_instruct.checkpoints.families import Checkpoint, Family
from open_instruct.checkpoints.file_content import check_content
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError
from open_instruct.common.hub_errors import hub_errors

WEIGHTS = (
    ("model*.safetensors", "model*.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model*.bin.index.json"),
)
"""Patterns of weights and their index, the better format first."""
# No code: what a repository wants to be executed is never fetched.
TOKENIZER = ("tokenizer*.json", "tokenizer*.model", "special_tokens_map.json", "vocab.json", "merges.txt")

NEXT_STEP = "try again later"


@dataclass(frozen=True)
class HubFile:
    num_bytes: int
    sha256: str | None
    """Of large files."""
    git_id: str
    """SHA-1 of the file as git counts it; of small files it is the content's."""


@dataclass(frozen=True)
class Snapshot:
    """What one revision holds of a model: the files to fetch, as the Hub describes them."""

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
        return {
            name: f.sha256 for name, f in self.files.items() if f.sha256 and name.endswith((".safetensors", ".bin"))
        }

    def fetch(self, folder: Path, on_bytes: Callable[[int], object]) -> dict[str, Any]:
        """Bring the files to `folder`; returns what they were, file by file."""
        for part in (self, self.tokenizer) if self.tokenizer else (self,):
            fetch_files(part, folder)
        on_bytes(self.num_bytes)
        return {"downloaded": dataclasses.asdict(self)}


def list_hub(family: Family) -> list[Available]:
    """The family's checkpoints by step, and `main`, as the repository's branches and tags name them now."""
    assert family.hub is not None
    with hub_errors(family.hub, next_step=NEXT_STEP):
        refs = HfApi().list_repo_refs(family.hub)
    found: dict[int | None, Available] = {}
    for ref in (*refs.tags, *refs.branches):
        if ref.name == "main":
            found[None] = Available(Checkpoint(family.name, None), "main")
        elif read := family.read_revision(ref.name):
            step, tokens = read
            if step in found and found[step].location != ref.name:
                raise UserError(
                    f"{family.hub}: revisions {found[step].location} and {ref.name} are both of step {step}"
                )
            found[step] = Available(Checkpoint(family.name, step), ref.name, tokens)
    if not found.keys() - {None} and family.revision != "main":
        raise UserError(f"{family.hub} has no revision like {family.revision}; mend `revision` of {family.name}")
    return [found[step] for step in sorted(found, key=lambda step: (step is None, step or 0))]


def describe_snapshot(family: Family, revision: str) -> Snapshot:
    """Which files of `revision` make the model.  Raises UserError where there is none that this project reads."""
    commit, listed = list_files(family, revision)
    weights = next((patterns for patterns in WEIGHTS if fnmatch.filter(listed, patterns[0])), None)
    if weights is None or "config.json" not in listed:
        raise UserError(f"{family.hub} {revision} holds no config.json with safetensors or pytorch_model.bin")
    files = matching(listed, ("config.json", "generation_config.json", *weights, *TOKENIZER))
    tokenizer = None
    if not matching(listed, TOKENIZER):
        main_commit, main_listed = list_files(family, "main")
        tokenizer = Snapshot(str(family.hub), "main", main_commit, matching(main_listed, TOKENIZER))
    return Snapshot(str(family.hub), revision, commit, files, tokenizer)


def list_files(family: Family, revision: str) -> tuple[str, dict[str, HubFile]]:
    """The commit that `revision` is now, and the files at its top."""
    assert family.hub is not None
    with hub_errors(f"{family.hub} {revision}", next_step=NEXT_STEP):
        commit = HfApi().model_info(family.hub, revision=revision).sha or revision
        entries = [e for e in HfApi().list_repo_tree(family.hub, revision=commit) if isinstance(e, RepoFile)]
    return commit, {e.path: HubFile(e.size, e.lfs.sha256 if e.lfs else None, e.blob_id) for e in entries}


def matching(listed: dict[str, HubFile], patterns: Sequence[str]) -> dict[str, HubFile]:
    return {name: file for name, file in sorted(listed.items()) if any(fnmatch.fnmatch(name, p) for p in patterns)}


def fetch_files(snapshot: Snapshot, folder: Path) -> None:
    """Bring the files to `folder`, going on with what is there.

    Raises UserError where the Hub fails, or a file is not the one it described.
    """
    for attempt in (1, 2):
        with hub_errors(f"{snapshot.repository} {snapshot.revision}", next_step=NEXT_STEP):
            snapshot_download(
                snapshot.repository, revision=snapshot.commit, local_dir=folder, allow_patterns=list(snapshot.files)
            )
        wrong = {name: reason for name, file in snapshot.files.items() if (reason := difference(folder / name, file))}
        if not wrong:
            return
        for name in wrong:
            (folder / name).unlink(missing_ok=True)
        if attempt == 2:
            raise UserError(f"{snapshot.repository} {snapshot.revision}: {'; '.join(map(' '.join, wrong.items()))}")


def difference(path: Path, expected: HubFile) -> str | None:
    """How a file differs from what the Hub described; None where it does not."""
    if not path.is_file():
        return "did not come"
    if path.stat().st_size != expected.num_bytes:
        return f"has {path.stat().st_size:,} bytes, expected {expected.num_bytes:,}"
    with path.open("rb") as file:
        if expected.sha256:
            found, right = hashlib.file_digest(file, "sha256").hexdigest(), expected.sha256
        else:
            found, right = hashlib.sha1(b"blob %d\0" % expected.num_bytes + file.read()).hexdigest(), expected.git_id
    if found != right:
        return f"has the hash {found}, expected {right}"
    try:
        check_content(path, path.name, deep=False)
    except ValueError as error:
        return str(error)
    return None
