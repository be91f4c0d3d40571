"""Two models on the same items: the difference of each metric with an interval of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.metrics.bootstrap import NUM_RESAMPLES, Method, Values, bootstrap_mean, checked
from eval.metrics.significance import sign_flip_p_value
from open_instruct.common.errors import UserError

WEIGHTED = {"bits_per_byte": ("gold_bits", "gold_bytes")}
"""Metric -> its values and weights among the items of a metrics file."""


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the same items; `p_value` is two-sided, for: a and b can be swapped on any item."""

    mean: float
    standard_error: float
    ci_low: float
    ci_high: float
    n: int
    p_value: float


def paired_difference(
    a: Values,
    b: Values,
    weights: Values | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
    method: Method = "percentile",
) -> Difference:
    """Mean of a - b, two models' values of the same items (items,), with its bootstrap interval and p-value.

    Raises UserError as `bootstrap_mean` does.
    """
    a_values, shared_weights = checked(a, weights)
    b_values, _ = checked(b, weights)
    if len(a_values) != len(b_values):
        raise UserError(
            f"found {len(a_values)} values to compare with {len(b_values)}; expected the same items in both"
        )
    interval = bootstrap_mean(
        a_values - b_values,
        shared_weights,
        seed=seed,
        num_resamples=num_resamples,
        confidence=confidence,
        method=method,
    )
    return Difference(**asdict(interval), p_value=sign_flip_p_value(a_values - b_values, seed=seed))


def differences(
    one: Mapping[str, Sequence[Any]],
    other: Mapping[str, Sequence[Any]],
    *,
    names: tuple[Path, Path],
    seed: int,
    num_resamples: int,
    method: Method,
) -> dict[str, Difference]:
    """one - other for each metric that the items of both have, matched by id.

    Raises UserError where the items are not the same: other ids, or gold completions of other lengths.
    """
    order = same_items(one, other, names)
    how: dict[str, Any] = {"seed": seed, "num_resamples": num_resamples, "method": method}
    found = {}
    for metric in ("rouge_l", "accuracy", *WEIGHTED):
        values, weights = WEIGHTED.get(metric, (metric, None))
        if values in one and values in other:
            matched = [other[values][i] for i in order]
            found[metric] = paired_difference(one[values], matched, one[weights] if weights else None, **how)
    if not found:
        raise UserError(f"{names[0]} and {names[1]} have no metric in common; compare predictions of one kind of task")
    return found


def same_items(
    one: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]], names: tuple[Path, Path]
) -> list[int]:
    """For each item of `one`, its place in `other`."""
    places = {name: i for i, name in enumerate(other["id"])}
    unmatched = [name for name in one["id"] if name not in places]
    surplus = len(places) - (len(one["id"]) - len(unmatched))
    if unmatched or surplus:
        example = f", {unmatched[0]!r} for one" if unmatched else ""
        raise UserError(
            f"found {len(unmatched)} items of {names[0]} that are not in {names[1]}{example}, and {surplus} the other "
            "way round; expected the same items: predict both from one evaluation file, with the same --limit"
        )
    order = [places[name] for name in one["id"]]
    if "gold_bytes" in one and "gold_bytes" in other:
        lengths = [other["gold_bytes"][i] for i in order]
        differing = [name for name, a, b in zip(one["id"], one["gold_bytes"], lengths, strict=True) if a != b]
        if differing:
            raise UserError(
                f"{names[0]} and {names[1]} have other gold completions for {len(differing)} items, {differing[0]!r} "
                "for one; predict both from one evaluation file"
            )
    return order


def print_differences(found: Mapping[str, Difference], names: tuple[Path, Path]) -> None:
    print(f"{names[0].stem} minus {names[1].stem}")
    for metric, by in found.items():
        test = "McNemar" if metric == "accuracy" else "sign flips"
        print(
            f"  {metric}: {by.mean:+.4f} ± {by.standard_error:.4f} [{by.ci_low:+.4f}, {by.ci_high:+.4f}], "
            f"p = {by.p_value:.3g} ({test}), {by.n} items"
        )


def as_json(found: Mapping[str, Difference]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: the spread of a single item is null."""
    return {
        metric: {key: None if value != value else value for key, value in asdict(difference).items()}
        for metric, difference in found.items()
    }
