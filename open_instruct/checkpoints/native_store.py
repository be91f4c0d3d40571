"""Checkpoints in OLMo's own format in an HTTP store: a folder of files, each at its own address."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from open_instruct.checkpoints.http_fetch import OnBytes, fetch
from open_instruct.checkpoints.http_probe import RemoteFile, RetryPolicy, probe
from open_instruct.checkpoints.listing import Available
from open_instruct.common.errors import UserError
from open_instruct.common.markers import ENDING

# Older releases are torch files, newer ones safetensors: alternatives, the first that the store has is downloaded.
REQUIRED = (("config.yaml",), ("model.pt", "model.safetensors"))
OPTIMIZER = (("optim.pt", "optim.safetensors"), ("train.pt", "train.safetensors"))


@dataclass(frozen=True)
class NativeFolder:
    """The files of one checkpoint, as their store describes them."""

    files: dict[str, RemoteFile]
    client: httpx.Client
    policy: RetryPolicy

    @property
    def num_bytes(self) -> int:
        return sum(remote.num_bytes for remote in self.files.values())

    @property
    def weights(self) -> dict[str, str]:
        """Checksum of every file of weights, by name, where the store provides one."""
        return {n: " ".join(r.checksum) for n, r in self.files.items() if n.startswith("model.") and r.checksum}

    def fetch(self, folder: Path, on_bytes: OnBytes) -> dict[str, Any]:
        """Download the files to `folder`; returns the source of each and what verified it."""
        facts = {}
        for name, remote in self.files.items():
            verified_by = fetch(self.client, remote, folder / name, self.policy, on_bytes=on_bytes)
            facts[name] = dataclasses.asdict(remote) | {"verified_by": verified_by}
        return {"downloaded": facts}


def describe_native(client: httpx.Client, one: Available, policy: RetryPolicy, *, with_optimizer: bool) -> NativeFolder:
    """Query the store about every file.  Raises UserError that names every file that it does not have."""
    address = one.location
    files: dict[str, RemoteFile] = {}
    missing = []
    for names in required_files(with_optimizer=with_optimizer):
        found = next((r for name in names if (r := probe(client, f"{address}/{name}", policy))), None)
        if found is None:
            missing.append(" or ".join(names))
        else:
            files[found.name] = found
    if missing:
        raise UserError(f"{address}: the store has no {', no '.join(missing)}; see --list, or give another --ckpt_csv")
    return NativeFolder(files, client, policy)


def required_files(*, with_optimizer: bool) -> tuple[tuple[str, ...], ...]:
    return REQUIRED + (OPTIMIZER if with_optimizer else ())


def wget_script(addresses: Mapping[Path, str], *, with_optimizer: bool) -> str:
    """A shell script that downloads the same files, for machines without Python.

    addresses: partial folder of each checkpoint -> address of its files. Run download_olmo_ckpts.py afterwards, which
    verifies the files and makes the checkpoints of them.
    """
    lines = [
        "#!/usr/bin/env bash",
        "# Written by download_olmo_ckpts.py. Run it again to resume: existing files are not downloaded twice.",
        "set -euo pipefail",
        "get() {  # folder, address of the folder, then alternative file names",
        '  local folder="$1" address="$2" name; shift 2',
        f'  if [ ! -e "$folder" ]; then mkdir -p "$folder"; touch "$folder/{ENDING}"; fi',
        f'  [ -e "$folder/{ENDING}" ] || {{ echo "$folder is not of a download; move it away" >&2; return 1; }}',
        '  for name in "$@"; do',
        '    [ -e "$folder/$name" ] && return',
        '    wget --continue --tries=20 --waitretry=30 --output-document="$folder/$name.part" "$address/$name" \\',
        '      && mv "$folder/$name.part" "$folder/$name" && return',
        '    [ -s "$folder/$name.part" ] || rm -f "$folder/$name.part"',
        "  done",
        '  echo "$address has none of: $*" >&2; return 1',
        "}",
    ]
    for folder, address in addresses.items():
        for names in required_files(with_optimizer=with_optimizer):
            lines.append("get " + shlex.join([str(folder), address, *names]))
    return "\n".join(lines) + "\n"
