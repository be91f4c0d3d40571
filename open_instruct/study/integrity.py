"""Whether everything that a study claims is really there: each file is read again and compared with its sidecar."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from open_instruct.common import paths
from open_instruct.common.artifacts import (
    content_hash,
    describe_files,
    digest,
    read_sidecar,
    sidecar_path,
)
from open_instruct.common.errors import UserError
from open_instruct.study.job_cache import Stamps
from open_instruct.study.plan import Job

NUM_READERS = 4


def damaged_outputs(jobs: Sequence[Job]) -> dict[Path, str]:
    """Outputs that are not what their sidecar or, without one, their job's stamp says -> what is wrong."""
    outputs = [path for job in jobs for path in job.outputs if path.exists() and sidecar_path(path).is_file()]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = dict(zip(outputs, pool.map(check, outputs), strict=True))
    for job in jobs:
        for name, content in ((Stamps().read(job) or {}).get("outputs") or {}).items():
            path = Path(name)
            if not path.exists():
                found[path] = "is missing"
            elif content_hash(path) != content:
                found[path] = "has other content than was written"
    return {path: problem for path, problem in found.items() if problem}


def check(artifact: Path) -> str:
    """What is wrong with an artifact; nothing where it is whole. Every byte is read."""
    try:
        recorded = read_sidecar(artifact)["files"]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return f"its sidecar cannot be read ({error})"
    found = describe_files(artifact)
    problems = [f"{name} is missing" for name in recorded if name not in found]
    for name, entry in recorded.items():
        if name not in found:
            continue
        if found[name]["bytes"] != entry["bytes"]:
            problems.append(f"{name} has {found[name]['bytes']} bytes, {entry['bytes']} were written")
        elif found[name]["sha256"] != entry["sha256"]:
            problems.append(f"{name} has other content than was written (sha256 {found[name]['sha256'][:12]}…)")
    return "; ".join(problems)


def is_as_written(artifact: Path) -> bool:
    """Whether an artifact fits its sidecar; bytes are read only where size or time do not fit."""
    try:
        return content_hash(artifact) == digest({n: e["sha256"] for n, e in read_sidecar(artifact)["files"].items()})
    except (UserError, KeyError, TypeError, AttributeError):
        return False


def give_up(jobs: Sequence[Job], damaged: Iterable[Path]) -> list[Job]:
    """Take the sidecars from damaged outputs and the stamps from their jobs, which are returned: made again.

    So are those that may have read the damage: what they wrote is younger than the last change of a damaged file.
    """
    stamps, affected = Stamps(), list[Job]()
    distrusted_since = {path: last_change(path) for path in damaged}
    for job in jobs:
        since = min((distrusted_since[path] for path in job.inputs if path in distrusted_since), default=math.inf)
        for path in job.outputs:
            if path not in distrusted_since and path.exists() and when_made(path, stamps.path(job)) >= since:
                distrusted_since[path] = since
        if any(path in distrusted_since for path in job.outputs):
            affected.append(job)
            stamps.path(job).unlink(missing_ok=True)
    for path in distrusted_since:
        sidecar_path(path).unlink(missing_ok=True)
    return affected


def when_made(output: Path, stamp: Path) -> float:
    """Not later than the job was written down as done; what was not may be a part of a job's outputs."""
    return stamp.stat().st_ctime if stamp.is_file() else last_change(output)


def last_change(artifact: Path) -> float:
    """When the artifact or its sidecar was last written to, as the file system has it: nobody can set this time."""
    inside = artifact.rglob("*") if artifact.is_dir() else ()
    files = (artifact, sidecar_path(artifact), *inside)
    return max((path.stat().st_ctime for path in files if path.exists()), default=-math.inf)


def report(damaged: dict[Path, str]) -> list[str]:
    return [f"{paths.relative(path)}: {problem}" for path, problem in damaged.items()]
