"""Check that all finished outputs of a study are intact: every file is read again and compared with its sidecar."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from open_instruct.common.errors import UserError
from open_instruct.common.hashing import describe_files, digest_of_files
from open_instruct.common.ownership import is_json_object, mark_as_damaged
from open_instruct.common.sidecars import content_hash, has_sidecar, read_sidecar, sidecar_path
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

NUM_READERS = 4


def damaged_outputs(jobs: Sequence[Job]) -> dict[Path, str]:
    """Outputs that differ from their sidecar or, without one, from their job's cache entry -> the problem."""
    outputs = [path for job in jobs for path in job.outputs if path.exists() and sidecar_path(path).is_file()]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = dict(zip(outputs, pool.map(problems_of, outputs), strict=True))
    cache = JobCache()
    for job in jobs:
        for name, content in ((cache.read(job) or {}).get("outputs") or {}).items():
            path = Path(name)
            if not path.exists():
                found[path] = "is missing"
            elif content_hash(path) != content:
                found[path] = "has other content than was written"
    return {path: problem for path, problem in found.items() if problem}


def problems_of(artifact: Path) -> str:
    """What is wrong with an artifact, empty where it is intact. Reads every byte."""
    try:
        recorded = read_sidecar(artifact)["files"]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return f"its sidecar cannot be read ({error})"
    found = describe_files(artifact)
    problems = []
    for name, entry in recorded.items():
        if name not in found:
            problems.append(f"{name} is missing")
        elif found[name]["bytes"] != entry["bytes"]:
            problems.append(f"{name} has {found[name]['bytes']} bytes, {entry['bytes']} were written")
        elif found[name]["sha256"] != entry["sha256"]:
            problems.append(f"{name} has other content than was written (sha256 {found[name]['sha256'][:12]}…)")
    return "; ".join(problems)


def is_intact(artifact: Path) -> bool:
    """Whether an artifact matches its sidecar, where it has one. Bytes are read only where size or time differ."""
    path = sidecar_path(artifact)
    if not path.is_file() or (not has_sidecar(artifact) and is_json_object(path)):
        return True  # a user's own, perhaps with a file of that name
    try:
        recorded = read_sidecar(artifact)["files"]
        return content_hash(artifact) == digest_of_files(recorded)
    except (UserError, KeyError, TypeError, AttributeError):
        return False


def invalidate(jobs: Sequence[Job], damaged: Iterable[Path]) -> list[Job]:
    """Remove the sidecars of damaged outputs and the cache entries of their jobs, so that they are run again.

    Also those of jobs that may have read the damage: their outputs are younger than the last change of a damaged file.
    Returns all these jobs.
    """
    cache, affected = JobCache(), list[Job]()
    distrusted_since = {path: last_change(path) for path in damaged}
    for job in jobs:
        since = min((distrusted_since[path] for path in job.inputs if path in distrusted_since), default=math.inf)
        entry = cache.path(job)
        for path in job.outputs:
            if path not in distrusted_since and path.exists() and time_made(path, entry) >= since:
                distrusted_since[path] = since
        if any(path in distrusted_since for path in job.outputs):
            affected.append(job)
            entry.unlink(missing_ok=True)
    for path in distrusted_since:
        mark_as_damaged(path)
    return affected


def time_made(output: Path, entry: Path) -> float:
    """When the job's cache entry was written, an upper bound; without one (an unfinished job) the last change."""
    return entry.stat().st_ctime if entry.is_file() else last_change(output)


def last_change(artifact: Path) -> float:
    """Newest ctime of the artifact's files and its sidecar: unlike mtime, it cannot be set."""
    inside = artifact.rglob("*") if artifact.is_dir() else ()
    files = (artifact, sidecar_path(artifact), *inside)
    return max((path.stat().st_ctime for path in files if path.exists()), default=-math.inf)
