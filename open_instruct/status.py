"""How far a study is: read from the disk and from the queue, never from Slurm's history."""

import html
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_instruct import paths
from open_instruct.executors.slurm_client import Task
from open_instruct.executors.submissions import Submission
from open_instruct.plan import Job
from open_instruct.records import atomic_write
from open_instruct.stamps import Stamps

STATES = ("done", "running", "queued", "failed", "missing")
TAIL_BYTES = 4096
MOST_SHOWN = 20
REFRESH_SECONDS = 30


@dataclass(frozen=True)
class JobStatus:
    job: Job
    state: str
    """One of STATES; `missing` is what was never begun, or was given up before it began."""
    task: Task | None = None
    log: Path | None = None


@dataclass(frozen=True)
class Status:
    jobs: Sequence[JobStatus]
    seconds: Mapping[str, float]
    """Mean seconds of a job, by stage, where jobs were run."""
    retry: str
    """The command that runs again what failed."""

    def ids(self, *states: str) -> set[str]:
        return {one.job.id for one in self.jobs if one.state in states}


def survey(
    jobs: Sequence[Job], stamps: Stamps, submissions: Sequence[Submission], flying: Mapping[str, Task], *, retry: str
) -> Status:
    """`submissions` in the order in which they were made; `flying`: id of a job -> its task in the queue."""
    logs: dict[str, Path] = {}
    for submission in submissions:
        logs.update({job_id: submission.log(index) for index, job_id in submission.ids.items()})
    found, seconds = [], defaultdict[str, list[float]](list)
    for job in jobs:
        log = logs.get(job.id)
        if (task := flying.get(job.id)) is not None:
            state = "queued" if task.state == "PENDING" else "running"
        elif stamps.is_done(job):
            state = "done"
            if (took := stamps.seconds(job)) is not None:
                seconds[job.stage].append(took)
        else:
            state = "failed" if log is not None and log.is_file() else "missing"
        found.append(JobStatus(job, state, task, log))
    means = {stage: sum(of_stage) / len(of_stage) for stage, of_stage in seconds.items()}
    return Status(found, means, retry)


def rows(status: Status) -> list[list[str]]:
    """Header and one row a stage."""
    counts: dict[str, Counter] = {}
    for one in status.jobs:
        counts.setdefault(one.job.stage, Counter())[one.state] += 1
    table = [["stage", "jobs", *STATES, "time left"]]
    for stage, count in counts.items():
        left = seconds_left(count, status.seconds.get(stage))
        table.append([stage, str(count.total()), *(str(count[state]) for state in STATES), left])
    return table


def seconds_left(count: Counter, seconds_a_job: float | None) -> str:
    """Of one stage, if as many of its jobs go on running at once as run now."""
    num_left = count.total() - count["done"]
    if not num_left or seconds_a_job is None:
        return "" if not num_left else "?"
    return duration(num_left * seconds_a_job / max(1, count["running"]))


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def running_lines(status: Status) -> list[str]:
    """How far each running job is, as its log says."""
    return [
        f"{one.job.key} ({one.task.id if one.task else '-'}): {last_line(one.log) or 'has said nothing yet'}"
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
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1][-200:] if lines else ""


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
    if status.ids("failed"):
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
