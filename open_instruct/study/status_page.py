"""The state of a study as text, and as a page that reloads itself."""

import html
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from open_instruct.common import paths
from open_instruct.common.json_files import atomic_write
from open_instruct.common.progress_line import duration
from open_instruct.study import attempts
from open_instruct.study.logs import failure_line, last_line
from open_instruct.study.status import STATES, JobStatus, Status

MOST_SHOWN = 20
"""Jobs of each state that are named."""
REFRESH_SECONDS = 30


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


def running_line(one: JobStatus) -> str:
    """Share done, duration and last log line of a running job."""
    so_far = "?" if one.seconds is None else duration(one.seconds)
    said = last_line(one.log, offset=one.log_offset) if one.log else ""
    return f"{one.job.key} ({one.where}): {100 * one.share_done:.0f}%, {so_far}; {said or 'no log yet'}"


def failed_line(one: JobStatus) -> str:
    why = failure_line(one.log, offset=one.log_offset) if one.log else ""
    end = "ended before its start was recorded" if one.exit_code is None else attempts.end_in_words(one.exit_code)
    return f"{one.job.key}: {end}: {why or 'its log does not say why'} ({one.log})"


def stopped_line(one: JobStatus) -> str:
    return f"{one.job.key}: {attempts.end_in_words(one.exit_code)} ({one.log})"


def stale_line(one: JobStatus) -> str:
    gone = [paths.relative(path) for path in one.job.outputs if not path.exists()]
    return f"{one.job.key}: {f'{gone[0]} is gone' if gone else 'an input or output has changed since'}"


LINES = {
    "running": ("running", running_line),
    "failed": ("failed", failed_line),
    "stopped": ("stopped; the same command goes on with them", stopped_line),
    "stale": ("stale, were done; the same command makes them again", stale_line),
}


def as_text(status: Status) -> str:
    lines = [row("stage", "jobs", STATES, "time left")]
    for stage in dict.fromkeys(one.job.stage for one in status.jobs):
        found = [one for one in status.jobs if one.job.stage == stage]
        count = Counter(one.state for one in found)
        lines.append(row(stage, len(found), [count[state] for state in STATES], time_left(found)))
    for state, (title, describe) in LINES.items():
        found = [one for one in status.jobs if one.state == state]
        lines += section(title, [describe(one) for one in found[:MOST_SHOWN]], len(found))
    reasons = Counter((one.job.stage, one.reason) for one in status.jobs if one.state == "waiting")
    waiting = [f"{num} {stage}: {reason}" for (stage, reason), num in reasons.items()]
    lines += section("waiting", waiting[:MOST_SHOWN], len(waiting))
    if status.ids("failed") or any("held" in one.reason for one in status.jobs):
        lines += ["", f"run failed jobs again, and those that depend on them:  {status.retry}"]
    return "\n".join(lines)


def section(title: str, shown: Sequence[str], num_lines: int) -> list[str]:
    more = [f"  … and {num_lines - len(shown)} more"] if num_lines > len(shown) else []
    return ["", f"{title}:", *(f"  {line}" for line in shown), *more] if shown else []


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
pre{overflow-wrap:anywhere;white-space:pre-wrap}.bar{display:flex;height:1em;background:#eee;margin:1em 0}
.done{background:#2a7f4f}.running{background:#3b78c2}.waiting{background:#eee}.stopped{background:#e0a030}
.failed{background:#c0392b}.stale{background:#a9a9a9}"""


def write_page(status: Status, name: str) -> Path:
    """Write a page that reloads itself; it is as recent as the last --status or --watch."""
    count = Counter(one.state for one in status.jobs)
    total = max(1, count.total())
    bar = "".join(
        f'<div class="{state}" style="width:{100 * count[state] / total:.3f}%" title="{count[state]} {state}"></div>'
        for state in STATES
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
