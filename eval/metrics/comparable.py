"""What can be compared item by item: the metrics of a prediction file, and each task of a suite file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.metrics.metrics_file import load_metrics
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.paths import metrics_file
from open_instruct.common.sidecars import read_sidecar

WITHOUT_EFFECT = ("batch_size", "max_batch_tokens", "num_recorded_inputs", "source")
"""Options of a suite task that may differ between two models: they change no metric."""


@dataclass(frozen=True)
class Comparable:
    """The values of one model on the items of one evaluation set or suite task."""

    path: Path
    model_id: str
    evaluated_on: str
    items: Mapping[str, Sequence[Any]]
    """`id`, and for each metric one number per item."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Prompt format and number of exemplars; of suites all options with an effect."""
    is_suite: bool = False

    @property
    def evaluation(self) -> str:
        return f"{'suite task' if self.is_suite else 'evaluation set'} {self.evaluated_on}"


def is_suite_file(path: Path) -> bool:
    """Whether a file is, by its name, of run_lm_eval; predictions are JSON lines."""
    return path.suffix == ".json"


def load_comparables(path: Path, score_suffix: str = "") -> list[Comparable]:
    """The tasks of a suite file, or the one evaluation of a scored prediction file.

    score_suffix: of the scores' names, where their settings are not the defaults.

    Raises UserError where the file has no sidecar, another layout, or no values of items.
    """
    if not is_suite_file(path):
        found = load_metrics(metrics_file(path, score_suffix))
        setting = {name: found.identity.get(name) for name in ("format", "shots")}
        return [Comparable(path, str(found.identity["model_id"]), found.identity["eval_set"], found.items, setting)]
    read_sidecar(path)
    content = read_json(path)
    results = content.get("metrics") if isinstance(content, dict) else None
    if not isinstance(results, list) or not all(isinstance(result, dict) and "task" in result for result in results):
        raise UserError(
            f"{path}: found no tasks in it; expected a metrics file of `python -m olmo_eval.run_lm_eval` (.json) or "
            "predictions of eval/predict.py (.jsonl)"
        )
    if old := [str(result["task"]) for result in results if "items" not in result]:
        raise UserError(f"{path}: no values of items of {', '.join(old)}; evaluate again, with --overwrite")
    return [
        Comparable(path, str(result.get("model")), result["task"], result["items"], options_of(result), is_suite=True)
        for result in results
    ]


def options_of(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.get("task_options", {}).items() if name not in WITHOUT_EFFECT}


def counterpart(one: Comparable, others: Sequence[Comparable]) -> Comparable:
    """The evaluation among `others` to compare `one` with: of the same set or task, and if several in the same setting.

    Raises UserError where there is none, or several, and for suite tasks with other options.
    """
    candidates = [other for other in others if other.evaluation == one.evaluation]
    if len(candidates) > 1:
        candidates = [other for other in candidates if other.setting == one.setting]
    if len(candidates) != 1:
        listed = ", ".join(f"{other.path} of {other.evaluation}" for other in candidates or others)
        expected = "one file in the same setting" if candidates else "the same evaluation set or task"
        raise UserError(f"{one.path} is of {one.evaluation}; --against {listed}; expected {expected}")
    (other,) = candidates
    names = sorted({*one.setting, *other.setting}) if one.is_suite else []
    differing = [name for name in names if one.setting.get(name) != other.setting.get(name)]
    if differing:
        shown = "; ".join(f"{name} is {one.setting.get(name)!r} and {other.setting.get(name)!r}" for name in differing)
        raise UserError(
            f"{one.path} and {other.path} were evaluated on {one.evaluation} with other options: {shown}; "
            "evaluate one of them again with the options of the other"
        )
    return other
