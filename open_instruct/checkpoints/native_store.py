"""Checkpoints in OLMo's own format in a store that speaks HTTP: a folder of files, at an address each."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from open_instruct.checkpoints.http_store import (
    Patience,
    Remote,
    fetch,
    probe,
)
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError

# Older releases write torch files, newer ones safetensors; the first that the store has is taken.
NEEDED = (("config.yaml",), ("model.pt", "model.safetensors"))
OPTIMIZER = (("optim.pt", "optim.safetensors"), ("train.pt", "train.safetensors"))


@dataclass(frozen=True)
class NativeFolder:
    """The files of one checkpoint, as their store describes them."""

    source: str
    """Address of the folder."""
    files: dict[str, Remote]
    client: httpx.Client
    patience: Patience

    @property
    def num_bytes(self) -> int:
        return sum(remote.num_bytes for remote in self.files.values())

    @property
    def weights(self) -> dict[str, str]:
        """Checksums of the weights, where the store gives them."""
        found = {n: r.checksum or ("etag", r.validator or "") for n, r in self.files.items() if n.startswith("model.")}
        return {name: f"{kind} {value}" for name, (kind, value) in found.items() if value and kind != "etag"}

    def fetch(self, folder: Path, on_bytes: Callable[[int], object]) -> dict[str, Any]:
        """Bring the files to `folder`; returns where each came from and by what it was verified."""
        facts = {}
        for name, remote in self.files.items():
            verified_by = fetch(self.client, remote, folder / name, self.patience, on_bytes=on_bytes)
            facts[name] = dataclasses.asdict(remote) | {"verified_by": verified_by}
        return {"downloaded": facts}


def describe_folder(client: httpx.Client, address: str, patience: Patience, *, with_optimizer: bool) -> NativeFolder:
    """Ask for every file before the first byte of any.  Raises UserError that names what the store does not have."""
    files: dict[str, Remote] = {}
    missing = []
    for names in NEEDED + (OPTIMIZER if with_optimizer else ()):
        found = next((r for name in names if (r := probe(client, f"{address}/{name}", patience))), None)
        if found is None:
            missing.append(" or ".join(names))
        else:
            files[found.name] = found
    if missing:
        raise UserError(f"{address}: the store has no {', no '.join(missing)}; see --list, or give another --ckpt_csv")
    return NativeFolder(address, files, client, patience)


def wget_script(chosen: Sequence[Available], *, with_optimizer: bool) -> str:
    """A script that fetches the same files to the same places, for machines where Python is not wanted.

    What it brought is checked and gets its sidecar when download_olmo_ckpts.py is run afterwards.
    """
    lines = [
        "#!/usr/bin/env bash",
        "# Made by download_olmo_ckpts.py. Can be run again: what is there is not fetched twice.",
        "set -euo pipefail",
        "get() {  # folder, address of the folder, then names of which one is enough",
        '  local folder="$1" address="$2" name; shift 2; mkdir -p "$folder"',
        '  for name in "$@"; do',
        '    [ -e "$folder/$name" ] && return',
        '    wget --continue --tries=20 --waitretry=30 --output-document="$folder/$name.part" "$address/$name" \\',
        '      && mv "$folder/$name.part" "$folder/$name" && return',
        '    [ -s "$folder/$name.part" ] || rm -f "$folder/$name.part"',
        "  done",
        '  echo "$address has none of: $*" >&2; return 1',
        "}",
    ]
    for one in chosen:
        for names in NEEDED + (OPTIMIZER if with_optimizer else ()):
            lines.append("get " + shlex.join([str(one.checkpoint.folder), one.location, *names]))
    return "\n".join(lines) + "\n"
