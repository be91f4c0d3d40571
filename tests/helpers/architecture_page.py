"""Write docs/architectures.md: what each architecture of architectures.yaml is computed by, as the sweep finds it.

python tests/helpers/architecture_page.py
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import architectures
import torch
import transformers
from architecture_sweep import Outcome, outcomes

from open_instruct.common.cli import run
from open_instruct.common.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "architectures.md"
Row = tuple[str, ...]
"""Cells of the page's table, but for the name."""
HEAD = """\
# Architectures

What evaluation and fine-tuning do with each of the {num_types} types of causal language models of transformers
{version}. Look up `model_type` of your model's `config.json`. Names with a comma are types with other settings, such as
a window shorter than the texts, or BERT's kind used as decoders (`is_decoder`).

It was found by running all of them, small and with random weights, against transformers' own forward pass of each text
alone. A model of yours is compared with its own forward pass when it is loaded, whatever its type: its settings, or a
window that is shorter than your texts, can change what this page says. Log and sidecar (`computed_by`) say what was
taken and why.

| column | as fast as is possible here | otherwise |
|---|---|---|
| log-likelihoods | *prefix tree*: what texts have in common is computed once | *padded*: texts as wholes, in batches; \
*alone*: one at a time |
| generation | *own cache*: continuous batching | *generate*: transformers' `generate`, prompts of one length at once |
| training | *targets*: the LM head, and often the last MLP, at targets only | *all positions*; *alone*: one at a time |
| `--packing` | *packed*: examples end to end, each sees itself only | *padded*: as without it |
| `--use_lora` | *adapters* | |

Why a way is not taken: its numbers *differ*; it *cannot run*; the model has an *attention of its own*, or one with
sinks (`s_aux`); it transforms its logits (the field of the config is named); or texts exceed its attention *window*.

Of all that is not refused, log-likelihoods and first losses (nats per target) are within 0.0002 nats of transformers'
own, generated tokens are the same, losses after one and two steps are within 0.005, and the saved model, loaded again,
has the loss that it had before. The page is written by

    python tests/helpers/architecture_page.py

and `python -m pytest tests/repository/test_every_architecture.py` compares it with new runs.

"""
COLUMNS = (
    "| model type | log-likelihoods | generation | training | `--packing` | `--use_lora` | why not faster |\n"
    + "|---" * 7
    + "|"
)
SECTIONS = {
    "Fast": f"## As fast as here is possible\n\n{COLUMNS}",
    "Plain": f"## Right, in part by slower ways\n\n{COLUMNS}",
    "Refused": "## Refused\n\n| model type | what is found |\n|---|---|",
    "Unknown": "## Not tried\n\nTransformers itself cannot build these from their config alone.\n\n"
    "| model type | what it says |\n|---|---|",
}
WORDS = {
    "prefix tree": "prefix tree",
    "padded batches": "padded",
    "one text at a time": "alone",
    "own key-value cache": "own cache",
    "transformers' generate": "generate",
    "generate without a cache": "generate, no cache",
}
"""Ways of evaluation -> the page's words."""
REASONS = {
    r"differs by": "differs",
    r"(final_logit_softcapping|\w*logit\w*|embedding_multiplier) is": r"`\1`",
    r"exceed\w* the attention window": "window",
    r"does not use transformers' attention interface": "attention of its own",
    r"needs (\w+) in its attention": r"`\1` in attention",
    r"cannot run": "cannot run",
}
"""Patterns of what a sidecar says -> why a faster way was not taken, the first that matches."""


@dataclass(frozen=True)
class Args:
    output: Path = PAGE
    """The page."""


def main(args: Args) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows: dict[str, Row] = {}
    wrong = []
    for name in architectures.names():
        with TemporaryDirectory() as folder:
            os.environ["base_dir"] = folder
            try:
                rows[name] = row_of(name, Path(folder))
                print(name, *rows[name], sep=" | ", flush=True)
            except AssertionError as error:
                wrong.append(name)
                print(f"{name}: WRONG {error}", flush=True)
    if wrong:
        raise SystemExit(f"not written: {', '.join(wrong)}")
    args.output.write_text(page(rows))


def row_of(name: str, folder: Path) -> Row:
    """Raises AssertionError for anything but right or refused."""
    reason = architectures.cannot_be_built(name)
    return (reason,) if reason else cells(outcomes(name, folder))


def cells(found: Mapping[str, Outcome]) -> Row:
    wrong = {check: outcome.text for check, outcome in found.items() if outcome.kind == "wrong"}
    assert not wrong, wrong
    if all(outcome.kind == "refused" for outcome in found.values()):
        return (refusal(found["labels"].text),)
    ways = [evaluation_word(found["labels"]), evaluation_word(found["generation"])]
    ways += [training_word(found["padded"]), packing_word(found["packed"])]
    return (*ways, "refused" if found["lora"].kind == "refused" else "adapters", why(found))


def evaluation_word(outcome: Outcome) -> str:
    return "refused" if outcome.kind == "refused" else WORDS[outcome.text.split(" (")[0]]


def training_word(outcome: Outcome) -> str:
    if outcome.kind == "refused":
        return "refused"
    way = outcome.text.split(" (")[0]
    return "alone" if "one example at a time" in way else "targets" if "at targets only" in way else "all positions"


def packing_word(outcome: Outcome) -> str:
    return "refused" if outcome.kind == "refused" else "packed" if outcome.text.startswith("packed") else "padded"


def why(found: Mapping[str, Outcome]) -> str:
    """The reasons of all checks, each once, in one order."""
    reasons: list[str] = []
    for outcome in found.values():
        if outcome.kind == "refused":
            reasons.append(refusal(outcome.text))
        elif " (" in outcome.text:
            parts = outcome.text.split(" (", 1)[1].removesuffix(")").split("; ")
            reasons += [reason for reason in map(in_short, parts) if reason]
    return "; ".join(sorted({*reasons}))


def in_short(reason: str) -> str | None:
    for pattern, text in REASONS.items():
        if match := re.search(pattern, reason):
            return match.expand(text)
    return None


def refusal(text: str) -> str:
    """What is common to the refusals of one kind: without class, folder, numbers and cure."""
    text = re.sub(r" \(.*\)", "", text)
    text = re.sub(r" by [\d.e-]+ nats|^\S+?:? (?=(its|no|peft|several|the|would) )", "", text)
    return re.split(r"; |, expected|, so |, such as |: \{", text)[0].replace("|", "\\|")


def page(rows: Mapping[str, Row]) -> str:
    """The document.  rows: by name"""
    num_types = len(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    lines = HEAD.format(num_types=num_types, version=".".join(transformers.__version__.split(".")[:2]))
    for section, head in SECTIONS.items():
        by_cells: dict[Row, list[str]] = defaultdict(list)
        for name, row in rows.items():
            if section_of(name, row) == section:
                by_cells[row].append(name)
        lines += head + "\n"
        for row, names in sorted(by_cells.items(), key=lambda item: (-len(item[1]), item[1])):
            lines += "| " + ", ".join(f"`{name}`" for name in names) + " | " + " | ".join(row) + " |\n"
        lines += "\n"
    return lines.rstrip("\n") + "\n"


def section_of(name: str, row: Row) -> str:
    if len(row) == 1:
        return "Unknown" if architectures.cannot_be_built(name) else "Refused"
    return "Plain" if row[-1] else "Fast"


def documented() -> dict[str, Row]:
    """The page's rows, by name."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `") and not line.startswith("| `--"):
            names, *row = line.removeprefix("| ").removesuffix(" |").split(" | ")
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", names), tuple(row))
    return rows


if __name__ == "__main__":
    run(main, Args)
