r"""The result tables for a paper: LaTeX with booktabs, in the folder `tables` of a study's results.

Scores, over replicates, have a column for each checkpoint; a dagger marks those that say nothing about the model. Up to
LONGEST_TABULAR rows a file is a `tabular`, to be put into a table with \input; a longer one is a `longtable`, which
breaks over pages.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.columns import FILES, METRIC_LABELS
from analysis.tables.frames import Tables, groups, is_empty, number, order_checkpoints
from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import atomic_write

LONGEST_TABULAR, LONGEST_LINE = 40, 70
"""Rows, and characters of a cell."""
DAGGER = "†"
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    DAGGER: r"$^\dagger$",
}
EVALUATION = ("eval dataset", "setting", "format", "metric", "series")
DIFFERENCE = ("difference", "ci_low", "ci_high", "p_value", "next_low", "next_high", "replicates", "n")
VARIATION = ("item_error", "seed_sd", "run_sd", "checkpoint_sd", "signal_to_noise")
VARIATION += ("gain_replicate_sd", "gain_next_half_width", "smallest_gain")
SHOWN = {
    "differences": ("comparison", "series", "checkpoint", "eval dataset", "metric", *DIFFERENCE, "missing"),
    "changes": (),
    "groups": (),
    "paper_means": (),
    "variation": ("series", "setting", "format", "metric", *VARIATION),
    "noise": ("series", "checkpoint", "setting", "size", "draws", "bits_per_byte", *DIFFERENCE[:3]),
    "distances": ("series", "checkpoint", "layer", "weights", "distance", "base_norm", "relative"),
    "ranks": ("series", "checkpoint", "layer", "kind", "full_rank", "rank", "effective_rank", "stable_rank"),
    "interpolation": ("series", "checkpoint", "setting", "alpha", "bits_per_byte", "difference", "barrier"),
}
"""Field of Tables -> columns (none: all)."""


def write_latex_tables(tables: Tables, folder: Path, inputs: Mapping[str, Path]) -> None:
    """Write every table that has rows to `folder`, in the place of those of an earlier time."""
    frames = {name: by_checkpoint(getattr(tables.pooled, name)) for name in ("performance", "suites")}
    for name, columns in SHOWN.items():
        frame: pd.DataFrame = getattr(tables, name)
        frames[name] = frame.filter(list(columns or frame.columns))
    with Artifact(folder, arguments={}, inputs=inputs).making_folder() as (made, _):
        for name, frame in frames.items():
            if len(frame):
                to_latex(frame, made / FILES[name].replace(".csv", ".tex"))
    print(f"wrote the tables for LaTeX to {folder}")


def by_checkpoint(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each evaluation, metric and series; for each checkpoint the score and its standard error."""
    checkpoints = order_checkpoints(scores["checkpoint"])
    rows = []
    for (_, setting, task_format, metric, series), curve in groups(scores, *EVALUATION):
        cells = zip(curve["checkpoint"], curve["Performance"], curve["std"], curve["degenerate"], strict=True)
        found = {
            checkpoint: with_error(score, error, is_marked=not is_empty(why)) for checkpoint, score, error, why in cells
        }
        about = {"evaluation set": setting, "format": task_format, "metric": METRIC_LABELS.get(metric, metric)}
        rows.append(about | {"series": series} | {name: found.get(name) for name in checkpoints})
    return pd.DataFrame(rows)


def with_error(score: Any, error: Any, *, is_marked: bool) -> str | None:
    """`0.412 (0.021)`, with a dagger if marked; without a standard error only the score."""
    value, deviation = number(score), number(error)
    if value is None:
        return None
    return f"{value:.3f}" + ("" if deviation is None else f" ({deviation:.3f})") + (DAGGER if is_marked else "")


def to_latex(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as LaTeX, without its empty columns; the same rows give the same bytes."""
    frame = frame.dropna(axis="columns", how="all")
    head = latex_row(frame.columns)
    body = [latex_row(row) for row in frame.itertuples(index=False, name=None)]
    alignment = "".join(alignment_of(frame[name].tolist()) for name in frame.columns)
    if len(body) <= LONGEST_TABULAR:
        lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{{alignment}}}", "\\toprule", head, "\\midrule"]
        lines += [*body, "\\bottomrule", "\\end{tabular}"]
    else:
        lines = ["% \\usepackage{booktabs,longtable}", f"\\begin{{longtable}}{{{alignment}}}", "\\toprule", head]
        lines += ["\\midrule", "\\endhead", "\\bottomrule", "\\endfoot", *body, "\\end{longtable}"]
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")


def alignment_of(column: Iterable[Any]) -> str:
    """Numbers to the right, text to the left, long text in lines."""
    texts = [str(value) for value in column if not is_empty(value)]
    if all(text.lstrip("-")[:1].isdigit() for text in texts):
        return "r"
    return "l" if max(map(len, texts)) <= LONGEST_LINE else r"p{0.5\linewidth}"


def latex_row(cells: Iterable[Any]) -> str:
    return " & ".join(map(latex_cell, cells)) + r" \\"


def latex_cell(value: Any) -> str:
    r"""Text with LaTeX's special characters escaped, numbers with three digits: `$-0.108$`, `$1.2 \times 10^{-5}$`."""
    if is_empty(value):
        return "--"
    if not isinstance(value, float):
        return "".join(SPECIAL.get(character, character) for character in str(value))
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"${mantissa}$" if not exponent else rf"${mantissa} \times 10^{{{int(exponent)}}}$"
