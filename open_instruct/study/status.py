"""The state of every job of a study, read from the disk and, on a cluster, from the queue; accounting is not needed."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_instruct.study import attempts, progress
from open_instruct.study.job import Job, dependencies
from open_instruct.study.job_cache import JobCache
from open_instruct.study.logs import failure_line

STATES = ("done", "running", "waiting", "stopped", "failed", "stale")
"""docs/study.md says what each means."""


@dataclass(frozen=True)
class InFlight:
    """A job that is queued or running."""

    is_running: bool
    where: str
    """Its task in Slurm, or its host."""
    reason: str = ""
    """Slurm's reason why it is queued."""


@dataclass(frozen=True)
class JobStatus:
    job: Job
    state: str
    """One of STATES."""
    where: str = ""
    """Of a queued or running job: its task in Slurm, or its host."""
    log: Path | None = None
    log_offset: int = 0
    """Where the output of the last attempt begins in the log."""
    share_done: float = 0.0
    seconds: float | None = None
    """Duration; of a running job, so far."""
    exit_code: int | None = None
    reason: str = ""
    """Of a waiting job: what it waits for."""


@dataclass(frozen=True)
class Status:
    jobs: Sequence[JobStatus]
    retry: str
    """The command that runs failed jobs again."""
    is_active: bool = False
    """Whether a job is queued or running, or a local run is under way."""

    def ids(self, *states: str) -> set[str]:
        return {one.job.id for one in self.jobs if one.state in states}


def collect(
    jobs: Sequence[Job],
    cache: JobCache,
    *,
    study_name: str,
    in_flight: Mapping[str, InFlight],
    retry: str,
    logs: Mapping[str, Path] | None = None,
    is_active: bool = False,
) -> Status:
    """`in_flight` by id of the job; `logs` of jobs that Slurm started, which may have ended before they recorded it."""
    found = {job.id: status_of(job, study_name, cache, in_flight.get(job.id), (logs or {}).get(job.id)) for job in jobs}
    add_reasons(found, dependencies(jobs))
    return Status(list(found.values()), retry, is_active or bool(in_flight))


def status_of(
    job: Job, study_name: str, cache: JobCache, in_flight: InFlight | None, slurm_log: Path | None
) -> JobStatus:
    if in_flight is not None and not in_flight.is_running:
        return JobStatus(
            job, "waiting", in_flight.where, reason=f"queued on Slurm ({in_flight.reason or 'no reason yet'})"
        )
    if in_flight is None and cache.is_done(job):
        return JobStatus(job, "done", share_done=1.0, seconds=cache.seconds(job))
    path = attempts.path_of(study_name, job)
    attempt = attempts.read(path)
    log, offset = (attempt.log_path, attempt.log_offset) if attempt else (slurm_log, 0)
    if in_flight is not None:
        seconds = max(0.0, time.time() - attempt.started) if attempt else None
        return JobStatus(job, "running", in_flight.where, log, offset, progress.share_done(job), seconds)
    was_done = os.path.isfile(str(cache.path(job)))
    # Of a job that was done after a failed attempt, through another study, the attempt says nothing any more.
    if attempt is not None and not (was_done and cache.path(job).stat().st_mtime_ns > path.stat().st_mtime_ns):
        state = attempts.state_after(attempt.exit_code)
        if state != "done":
            return JobStatus(job, state, log=log, log_offset=offset, exit_code=attempt.exit_code)
        was_done = True
    if was_done:
        return JobStatus(job, "stale", log=log, log_offset=offset)
    if slurm_log is not None and slurm_log.is_file():
        # Slurm started it, and it ended before it recorded its attempt: killed, or its Python does not start.
        return JobStatus(job, "failed" if failure_line(slurm_log) else "stopped", log=slurm_log)
    return JobStatus(job, "waiting")


def add_reasons(found: dict[str, JobStatus], before: Mapping[str, Mapping[str, Job]]) -> None:
    """Add to waiting jobs that are not queued what they wait for. `found` is in the order of the plan."""
    failed: dict[str, str] = {}  # job id -> key of the failed job that it needs, directly or not
    for job_id, one in found.items():
        if one.state == "failed":
            failed[job_id] = one.job.key
        elif needed := [failed[other] for other in before[job_id] if other in failed]:
            failed[job_id] = needed[0]
        if one.state != "waiting" or one.reason:
            continue
        if job_id in failed:
            reason = f"for {failed[job_id]}, which failed"
        else:
            stages = dict.fromkeys(job.stage for other, job in before[job_id].items() if found[other].state != "done")
            reason = f"for {', '.join(stages)}" if stages else "to be started"
        found[job_id] = replace(one, reason=reason)
