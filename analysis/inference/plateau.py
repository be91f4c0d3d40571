"""Latent benefit: does the gain grow while the base model is level?

Level means equivalent: by two one-sided tests on the same items and runs, the last checkpoint differs by less than a
margin from an earlier one. From the last checkpoint backwards each is tested at 5% until one fails, so that the chance
of calling a base level that is not is 5% for all of them together (a fixed sequence of tests).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.inference.contrasts import FEWEST_IN_A_SLOPE, Contrast, Curve, plateau_contrast
from analysis.inference.equivalence import equivalent
from analysis.inference.finding import format_p
from analysis.tables.columns import Comparison
from analysis.tables.replicates import FEWEST_REPLICATES

LEVEL_ERROR = 0.05
Estimate = Callable[[Sequence[Contrast]], list[dict[str, Any]]]


def plateau_slopes(
    own: Sequence[Curve],
    contrasts: Sequence[Contrast],
    results: Sequence[dict[str, Any]],
    estimate: Estimate,
    margin: float | None,
    bottom: float | None,
) -> Iterator[tuple[Contrast, dict[str, Any]]]:
    """Slope of fine-tuned minus base where the base is level; its p-value is the larger one of slope and level.

    own        curves fine-tuned on the task itself
    contrasts  and their results, the differences of the base's checkpoints among them
    margin     largest difference that counts as none, None where none is set for the metric
    bottom     score of a model that knows nothing, None where it is unknown
    """
    differences: dict[tuple[str, str], list[tuple[Contrast, dict[str, Any]]]] = {}
    measured = set()
    for contrast, result in zip(contrasts, results, strict=True):
        place = contrast.series, contrast.columns["format"]
        measured.add(place)
        if contrast.comparison == Comparison.LAST_MINUS_EARLIER:
            differences.setdefault(place, []).append((contrast, result))
    for (base, task_format), of_base in differences.items():
        names, p_level = level_checkpoints(of_base, margin)
        for curve in own:
            if curve.base == base and (curve.series, task_format) in measured:
                dataset = of_base[0][0].columns["eval dataset"]
                contrast = plateau_contrast(curve, task_format, dataset, names)
                problem = why_no_plateau(contrast, names, margin, len(of_base[0][0].replicates))
                problem = problem or why_at_bottom(of_base[0][0], estimate, bottom)
                if problem:
                    yield contrast, {"missing": problem}
                else:
                    (result,) = estimate([contrast])
                    yield contrast, with_level(result, f"within {margin:g} from checkpoint {names[0]} on", p_level)


def level_checkpoints(
    of_base: Sequence[tuple[Contrast, dict[str, Any]]], margin: float | None
) -> tuple[list[str], float]:
    """The last checkpoints that are equivalent to the very last one, and the largest p-value of these tests."""
    names, largest = [of_base[0][0].checkpoint], 0.0
    for contrast, result in reversed(of_base):
        if margin is None or result.get("missing") or result["replicates"] < FEWEST_REPLICATES:
            break
        p_value = float(equivalent(result["difference"], result["std"], result["df"], margin, result["skew"]))
        if not p_value <= LEVEL_ERROR:
            break
        names.insert(0, contrast.reference)
        largest = max(largest, p_value)
    return names, largest


def why_no_plateau(contrast: Contrast, names: Sequence[str], margin: float | None, num_runs: int) -> str | None:
    """num_runs: base models of each checkpoint."""
    if margin is None:
        return "no margin is set for this metric: name one in `margins` of the study file"
    if num_runs < FEWEST_REPLICATES:
        found = f"{num_runs} base model" + ("" if num_runs == 1 else "s")
        return f"{found} at each checkpoint; {FEWEST_REPLICATES} needed to show that the base is level"
    if len(names) < FEWEST_IN_A_SLOPE or not contrast.terms:
        count = f"{len(names)} checkpoint" + ("" if len(names) == 1 else "s")
        return f"the base is level, within {margin:g}, at {count}; {FEWEST_IN_A_SLOPE} needed"
    return None


def why_at_bottom(of_base: Contrast, estimate: Estimate, bottom: float | None) -> str | None:
    if bottom is None:
        return "the score by chance is not known"
    last = (of_base.series, of_base.checkpoint, of_base.columns["format"])
    (level,) = estimate([replace(of_base, terms={last: 1.0})])
    return None if (level.get("ci_low") or 0.0) > bottom else f"the base is not above chance, {bottom:g}"


def with_level(result: Mapping[str, Any], where: str, p_level: float) -> dict[str, Any]:
    if result.get("missing"):
        return dict(result)
    note = f"base level {where}, p {format_p(p_level)}"
    return {**result, "p_value": max(result["p_value"], p_level), "note": note}
