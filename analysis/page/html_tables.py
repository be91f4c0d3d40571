"""Data frames as HTML tables that the page's script sorts and filters."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.tables.frames import is_empty


def table(frame: pd.DataFrame, columns: Sequence[str] = (), *, file: str) -> str:
    """These columns (default: all) of a frame; `file` is named in print, which has only the first rows."""
    columns = columns or list(frame.columns)
    head = "".join(f"<th scope='col'><button>{html.escape(str(name))}</button></th>" for name in columns)
    named = zip(*([(column, value) for value in frame[column]] for column in columns), strict=True)
    rows = ["<tr>" + "".join(linked(*pair) for pair in row) + "</tr>" for row in named]
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='scroll' tabindex='0'><table class='data' data-file='{file}'>{body}</table></div>"


def linked(column: str, value: Any) -> str:
    """A cell; a source file links to its sidecar, relative to results/{study}. Rows of released tables have none."""
    if not column.endswith("source") or not isinstance(value, str) or not value.endswith(".json"):
        return cell(value)
    href = html.escape(f"../../{value}.meta.json")
    return f"<td><a href='{href}'>{html.escape(value.rsplit('/', 1)[-1])}</a></td>"


def cell(value: Any) -> str:
    """A cell with four digits to read, and the whole number to sort by."""
    if is_empty(value):
        return "<td></td>"
    if isinstance(value, float):
        return f"<td data-value='{value!r}'>{value:.4g}</td>"
    return f"<td>{html.escape(str(value))}</td>"


def joined(values: Iterable[Any]) -> str:
    """Each value once, in order, separated by commas."""
    return ", ".join(dict.fromkeys(str(value) for value in values))
