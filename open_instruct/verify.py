"""Whether everything that a study claims is really there: each file is read again and compared with its sidecar."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from open_instruct import paths
from open_instruct.plan import Job
from open_instruct.records import UserError, content_hash, describe_files, read_sidecar, sidecar_path
from open_instruct.stamps import Stamps

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
    except (UserError, KeyError, TypeError) as error:
        return f"its sidecar cannot be read ({error})"
    found = {entry["name"]: entry for entry in describe_files(artifact)}
    problems = [f"{name} is missing" for name in recorded if name not in found]
    for name, entry in recorded.items():
        if name not in found:
            continue
        if found[name]["bytes"] != entry["bytes"]:
            problems.append(f"{name} has {found[name]['bytes']} bytes, {entry['bytes']} were written")
        elif found[name]["sha256"] != entry["sha256"]:
            problems.append(f"{name} has other content than was written (sha256 {found[name]['sha256'][:12]}…)")
    return "; ".join(problems)


def give_up(jobs: Sequence[Job], damaged: Sequence[Path]) -> list[Job]:
    """Take the sidecars from damaged outputs and the stamps from their jobs, which are returned: made again."""
    stamps, affected = Stamps(), [job for job in jobs if set(job.outputs) & set(damaged)]
    for path in damaged:
        sidecar_path(path).unlink(missing_ok=True)
    for job in affected:
        stamps.path(job).unlink(missing_ok=True)
    return affected


def report(damaged: dict[Path, str]) -> list[str]:
    return [f"{paths.relative(path)}: {problem}" for path, problem in damaged.items()]
