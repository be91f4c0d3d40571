"""How far a study is: read from the disk and, on a cluster, from the queue, never from Slurm's history."""

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
from open_instruct.study.job_cache import Stamps
from open_instruct.study.plan import Job

STATES = ("done", "running", "queued", "failed", "missing")
MOST_SHOWN = 20
REFRESH_SECONDS = 30


@dataclass(frozen=True)
class InFlight:
    """A job that waits or runs."""

    is_running: bool
    where: str
    """Its task in Slurm, or `here`."""
    reason: str = ""
    """Why it waits, in Slurm's words."""


@dataclass(frozen=True)
class JobStatus:
    job: Job
    state: str
    """One of STATES; `missing` is what was never begun, or was given up before it began."""
    where: str = ""
    log: Path | None = None
    share_done: float = 0.0
    seconds: float | None = None
    """How long it took or, where it runs, has run."""
    reason: str = ""
    """Why it waits."""


@dataclass(frozen=True)
class Status:
    jobs: Sequence[JobStatus]
    retry: str
    """The command that runs again what failed."""

    def ids(self, *states: str) -> set[str]:
        return {one.job.id for one in self.jobs if one.state in states}


def survey(
    jobs: Sequence[Job], stamps: Stamps, *, in_flight: Mapping[str, InFlight], logs: Mapping[str, Path], retry: str
) -> Status:
    """`in_flight` and `logs` by id of the job; a log is what the last attempt said."""
    return Status([status_of(job, stamps, in_flight.get(job.id), logs.get(job.id)) for job in jobs], retry)


def status_of(job: Job, stamps: Stamps, in_flight: InFlight | None, log: Path | None) -> JobStatus:
    if in_flight is not None and in_flight.is_running:
        share, seconds = progress.share_done(job), progress.seconds_running(job)
        return JobStatus(job, "running", in_flight.where, log, share, seconds)
    if in_flight is not None:
        return JobStatus(job, "queued", in_flight.where, log, reason=in_flight.reason)
    if stamps.is_done(job):
        return JobStatus(job, "done", "", log, 1.0, stamps.seconds(job))
    return JobStatus(job, "failed" if log is not None and log.is_file() else "missing", "", log)


def rows(status: Status) -> list[list[str]]:
    """Header and one row a stage."""
    of_stage: dict[str, list[JobStatus]] = {}
    for one in status.jobs:
        of_stage.setdefault(one.job.stage, []).append(one)
    table = [["stage", "jobs", *STATES, "time left"]]
    for stage, found in of_stage.items():
        count = Counter(one.state for one in found)
        table.append([stage, str(len(found)), *(str(count[state]) for state in STATES), time_left(found)])
    return table


def time_left(jobs: Sequence[JobStatus]) -> str:
    """Of one stage, if as many of its jobs go on running at once as run now."""
    left = [one for one in jobs if one.state != "done"]
    took = [one.seconds for one in jobs if one.state == "done" and one.seconds is not None]
    if not took:  # none has ended yet: what the running ones promise
        took = [one.seconds / one.share_done for one in left if one.seconds and one.share_done]
    if not left or not took:
        return "?" if left else ""
    num_running = sum(one.state == "running" for one in left)
    return duration(sum(1 - one.share_done for one in left) * mean(took) / max(1, num_running))


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def running_lines(status: Status) -> list[str]:
    """How far each running job is, and what its log says."""
    return [
        f"{one.job.key} ({one.where}): {100 * one.share_done:.0f}%, "
        f"{'?' if one.seconds is None else duration(one.seconds)}; {last_line(one.log) or 'has said nothing yet'}"
        for one in status.jobs
        if one.state == "running"
    ]


def failed_lines(status: Status) -> list[str]:
    return [
        f"{one.job.key}: {last_line(one.log) or 'ended without a word: killed, or out of time'} ({one.log})"
        for one in status.jobs
        if one.state == "failed"
    ]


def last_line(log: Path | None) -> str:
    """The last that a log says; of a progress bar, its last state."""
    said = re.split(r"[\r\n]", progress.tail(log)) if log is not None else []
    return next((line.strip()[-200:] for line in reversed(said) if line.strip()), "")


def as_text(status: Status) -> str:
    table = rows(status)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in table
    ]
    for title, found in (("running", running_lines(status)), ("failed", failed_lines(status))):
        if found:
            lines += ["", f"{title}:", *(f"  {line}" for line in found[:MOST_SHOWN])]
            lines += [f"  … and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    if reasons := Counter(one.reason for one in status.jobs if one.state == "queued" and one.reason):
        lines += ["", f"queued for: {', '.join(f'{reason} ({n})' for reason, n in reasons.most_common())}"]
    if status.ids("failed") or any("held" in one.reason for one in status.jobs):
        lines += ["", f"run again what failed, and what waits for it:  {status.retry}"]
    return "\n".join(lines)


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}th,td{padding:.3em .6em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}.bar{display:flex;height:1em;background:#eee;margin:1em 0}
.done{background:#2a7f4f}.running{background:#3b78c2}.queued{background:#a9c4e6}.failed{background:#c0392b}
li{overflow-wrap:anywhere}code{background:#f3f3f3;padding:.1em .3em}"""


def write_page(status: Status, name: str) -> Path:
    """A page that loads itself again; as new as the last --status or --watch."""
    count = Counter(one.state for one in status.jobs)
    total = max(1, count.total())
    bar = "".join(
        f'<div class="{state}" style="width:{100 * count[state] / total:.3f}%" title="{count[state]} {state}"></div>'
        for state in STATES[:-1]
    )
    header, *body = rows(status)
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<meta http-equiv='refresh' content='{REFRESH_SECONDS}'><title>{html.escape(name)}</title>",
        f"<style>{STYLE}</style></head><body><h1>Study {html.escape(name)}</h1>",
        f"<p>{count['done']} of {count.total()} jobs done; {time.strftime('%Y-%m-%d %H:%M:%S %Z')}</p>",
        f"<div class='bar'>{bar}</div>",
        f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in header)}</tr>{table}</table>",
    ]
    for title, lines in (("Running", running_lines(status)), ("Failed", failed_lines(status))):
        if lines:
            listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:MOST_SHOWN])
            parts.append(f"<h2>{title}: {len(lines)}</h2><ul>{listed}</ul>")
    if status.ids("failed"):
        parts.append(f"<p>Run again what failed: <code>{html.escape(status.retry)}</code></p>")
    path = paths.base_dir() / "output" / "jobs" / name / "status.html"
    with atomic_write(path) as file:
        file.write("".join(parts) + "</body></html>\n")
    return path
