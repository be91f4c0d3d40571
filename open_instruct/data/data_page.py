"""The HTML page of check_data.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from open_instruct.common import paths
from open_instruct.common.json_files import atomic_write
from open_instruct.data.inspection import FileReport, SharedRows

TEMPLATE = Path(__file__).with_name("data_page.html.template")


def write_page(
    path: Path,
    reports: Sequence[FileReport],
    shared: Sequence[SharedRows],
    columns: Mapping[str, Callable[[FileReport], str]],
) -> None:
    table = [{title: cell(report) for title, cell in columns.items()} for report in reports]
    problems = [f"{report.name}: {problem}" for report in reports for problem in report.problems]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        folder=escape(str(paths.relative(paths.data_dir()))),
        problems="".join(f'<p class="problem">{escape(problem)}</p>' for problem in problems),
        table=html_table(table),
        shared=html_table([asdict(pair) for pair in shared]) if shared else "<p>None.</p>",
        samples="".join(map(samples_of, reports)),
    )
    with atomic_write(path) as file:
        file.write(page)


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    table = pd.DataFrame(rows).rename(columns=lambda title: title.replace("_", " "))
    with pd.option_context("display.max_colwidth", None):  # else long text is truncated
        return table.to_html(index=False, border=0, justify="left")


def samples_of(report: FileReport) -> str:
    blocks = "".join(f"<pre>{highlighted(record)}</pre>" for record in report.samples)
    return f"<h3>{escape(report.name)}</h3>{blocks}"


def highlighted(record: Mapping[str, Any]) -> str:
    """HTML of a record; the text that is learned or scored is highlighted."""
    if "messages" not in record:
        return f'{escape(record["prompt"])}<span class="completion">{escape(record["completion"])}</span>'
    turns = []
    for turn in record["messages"]:
        text = escape(turn["content"])
        text = f'<span class="completion">{text}</span>' if turn["role"] == "assistant" else text
        turns.append(f'<span class="role">{escape(turn["role"])}</span> {text}')
    return "\n".join(turns)
