"""Progress of a study, read from the disk and, on a cluster, from the queue; Slurm's accounting is not needed."""

import html
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from open_instruct.common import paths
from open_instruct.common.json_files import atomic_write
from open_instruct.study import progress
from open_instruct.study.job import Job
from open_instruct.study.job_cache import JobCache

STATES = ("done", "running", "queued", "failed", "missing")
MOST_SHOWN = 20
REFRESH_SECONDS = 30


@dataclass(frozen=True)
class InFlight:
    """A job that is queued or running."""

    is_running: bool
    where: str
    """Its task in Slurm, or `here`."""
    reason: str = ""
    """Slurm's reason why it is queued."""


@dataclass(frozen=True)
class JobStatus:
    job: Job
    state: str
    """One of STATES; `missing`: never started, or cancelled before its start."""
    where: str = ""
    log: Path | None = None
    share_done: float = 0.0
    seconds: float | None = None
    """Duration; of a running job, so far."""
    reason: str = ""
    """Slurm's reason why it is queued."""


@dataclass(frozen=True)
class Status:
    jobs: Sequence[JobStatus]
    retry: str
    """The command that runs failed jobs again."""

    def ids(self, *states: str) -> set[str]:
        return {one.job.id for one in self.jobs if one.state in states}


def collect(
    jobs: Sequence[Job], cache: JobCache, *, in_flight: Mapping[str, InFlight], logs: Mapping[str, Path], retry: str
) -> Status:
    """`in_flight` and `logs` are by id of the job; a log is that of the last attempt."""
    return Status([status_of(job, cache, in_flight.get(job.id), logs.get(job.id)) for job in jobs], retry)


def status_of(job: Job, cache: JobCache, in_flight: InFlight | None, log: Path | None) -> JobStatus:
    if in_flight is not None and in_flight.is_running:
        share, seconds = progress.share_done(job), progress.seconds_running(job)
        return JobStatus(job, "running", in_flight.where, log, share, seconds)
    if in_flight is not None:
        return JobStatus(job, "queued", in_flight.where, log, reason=in_flight.reason)
    if cache.is_done(job):
        return JobStatus(job, "done", "", log, 1.0, cache.seconds(job))
    return JobStatus(job, "failed" if log is not None and log.is_file() else "missing", "", log)


def row(stage: str, num_jobs: object, num_by_state: Sequence[object], left: str) -> str:
    return f"{stage:<10}{num_jobs:>7}" + "".join(f"{num:>9}" for num in num_by_state) + f"{left:>11}"


def time_left(jobs: Sequence[JobStatus]) -> str:
    """Time left of one stage, if as many of its jobs run in parallel as do now."""
    left = [one for one in jobs if one.state != "done"]
    took = [one.seconds for one in jobs if one.state == "done" and one.seconds is not None]
    if not took:  # none has ended yet: extrapolate from the running ones
        took = [one.seconds / one.share_done for one in left if one.seconds and one.share_done]
    if not left or not took:
        return "?" if left else ""
    num_running = sum(one.state == "running" for one in left)
    return duration(sum(1 - one.share_done for one in left) * mean(took) / max(1, num_running))


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def running_lines(status: Status) -> list[str]:
    """Share done, duration and last log line of each running job."""
    return [
        f"{one.job.key} ({one.where}): {100 * one.share_done:.0f}%, "
        f"{'?' if one.seconds is None else duration(one.seconds)}; {last_line(one.log) or 'no log yet'}"
        for one in status.jobs
        if one.state == "running"
    ]


def failed_lines(status: Status) -> list[str]:
    return [
        f"{one.job.key}: {last_line(one.log) or 'ended without a message: killed, or out of time'} ({one.log})"
        for one in status.jobs
        if one.state == "failed"
    ]


def last_line(log: Path | None) -> str:
    """The last line of a log; of a progress bar, its last state."""
    lines = re.split(r"[\r\n]", progress.tail(log)) if log is not None else []
    return next((line.strip()[-200:] for line in reversed(lines) if line.strip()), "")


def as_text(status: Status) -> str:
    lines = [row("stage", "jobs", STATES, "time left")]
    for stage in dict.fromkeys(one.job.stage for one in status.jobs):
        found = [one for one in status.jobs if one.job.stage == stage]
        count = Counter(one.state for one in found)
        lines.append(row(stage, len(found), [count[state] for state in STATES], time_left(found)))
    for title, found in (("running", running_lines(status)), ("failed", failed_lines(status))):
        if found:
            lines += ["", f"{title}:", *(f"  {line}" for line in found[:MOST_SHOWN])]
            lines += [f"  … and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    if reasons := Counter(one.reason for one in status.jobs if one.state == "queued" and one.reason):
        lines += ["", f"queued for: {', '.join(f'{reason} ({n})' for reason, n in reasons.most_common())}"]
    if status.ids("failed") or any("held" in one.reason for one in status.jobs):
        lines += ["", f"run failed jobs again, and those that depend on them:  {status.retry}"]
    return "\n".join(lines)


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
pre{overflow-wrap:anywhere;white-space:pre-wrap}.bar{display:flex;height:1em;background:#eee;margin:1em 0}
.done{background:#2a7f4f}.running{background:#3b78c2}.queued{background:#a9c4e6}.failed{background:#c0392b}"""


def write_page(status: Status, name: str) -> Path:
    """Write a page that reloads itself; it is as recent as the last --status or --watch."""
    count = Counter(one.state for one in status.jobs)
    total = max(1, count.total())
    bar = "".join(
        f'<div class="{state}" style="width:{100 * count[state] / total:.3f}%" title="{count[state]} {state}"></div>'
        for state in STATES[:-1]
    )
    path = paths.base_dir() / "output" / "jobs" / name / "status.html"
    with atomic_write(path) as file:
        file.write(
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            f"<meta http-equiv='refresh' content='{REFRESH_SECONDS}'><title>{html.escape(name)}</title>"
            f"<style>{STYLE}</style></head><body><h1>Study {html.escape(name)}</h1>"
            f"<p>{count['done']} of {count.total()} jobs done; {time.strftime('%Y-%m-%d %H:%M:%S %Z')}</p>"
            f"<div class='bar'>{bar}</div><pre>{html.escape(as_text(status))}</pre></body></html>\n"
        )
    return path
