"""Paired comparison of two models on the same items: the difference of each metric, with interval and p-value."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.metrics.bootstrap import NUM_RESAMPLES, Interval, Method, Values, bootstrap_mean, checked
from eval.metrics.significance import sign_flip_p_value
from open_instruct.common.errors import UserError

UNWEIGHTED = ("rouge_l", "exact_match", "accuracy", "acc")
"""`accuracy` is of predictions, `acc` of suites."""
WEIGHTED = {"bits_per_byte": ("gold_bits", "gold_bytes")}
"""Metric -> names of its values and weights in the items of a metrics file."""
Items = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of a - b over the same items."""

    p_value: float
    """Two-sided, under the null hypothesis that a and b can be swapped on any item."""


def paired_difference(
    a: Values,
    b: Values,
    weights: Values | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    method: Method = "percentile",
) -> Difference:
    """Mean of a - b, two models' values on the same items (items,), with its bootstrap interval and p-value.

    Raises UserError as `bootstrap_mean` does.
    """
    a_values, shared_weights = checked(a, weights)
    b_values, _ = checked(b, weights)
    if len(a_values) != len(b_values):
        raise UserError(
            f"found {len(a_values)} values to compare with {len(b_values)}; expected the same items in both"
        )
    differences = a_values - b_values
    interval = bootstrap_mean(differences, shared_weights, seed=seed, num_resamples=num_resamples, method=method)
    return Difference(**asdict(interval), p_value=sign_flip_p_value(differences, seed=seed))


def paired_differences(
    one: Items, other: Items, *, names: tuple[Path, Path], seed: int, num_resamples: int, method: Method
) -> dict[str, Difference]:
    """one - other for each metric that the items of both have, matched by id.

    Raises UserError where the items differ: in their ids, or in the lengths of their gold completions.
    """
    order = matching_items(one, other, names)
    found = {}
    for metric in (*UNWEIGHTED, *WEIGHTED):
        values, weights = WEIGHTED.get(metric, (metric, None))
        if values in one and values in other:
            found[metric] = paired_difference(
                one[values],
                [other[values][i] for i in order],
                one[weights] if weights else None,
                seed=seed,
                num_resamples=num_resamples,
                method=method,
            )
    if not found:
        raise UserError(f"{names[0]} and {names[1]} have no metric in common; compare predictions of one kind of task")
    return found


def matching_items(one: Items, other: Items, names: tuple[Path, Path]) -> list[int]:
    """For each item of `one`, its index in `other`."""
    indices = {name: i for i, name in enumerate(other["id"])}
    unmatched = [name for name in one["id"] if name not in indices]
    surplus = len(indices) - (len(one["id"]) - len(unmatched))
    if unmatched or surplus:
        example = f", such as {unmatched[0]!r}" if unmatched else ""
        raise UserError(
            f"found {len(unmatched)} items of {names[0]} that are not in {names[1]}{example}, and {surplus} the other "
            "way round; expected the same items: evaluate both on one file or task, with the same --limit"
        )
    order = [indices[name] for name in one["id"]]
    if "gold_bytes" in one and "gold_bytes" in other:
        lengths = [other["gold_bytes"][i] for i in order]
        differing = [name for name, a, b in zip(one["id"], one["gold_bytes"], lengths, strict=True) if a != b]
        if differing:
            raise UserError(
                f"{names[0]} and {names[1]} have different gold completions for {len(differing)} items, such as "
                f"{differing[0]!r}; predict both from one evaluation file"
            )
    return order


def print_differences(differences: Mapping[str, Difference], *, title: str) -> None:
    print(title)
    for metric, found in differences.items():
        test = "McNemar" if metric in ("accuracy", "acc", "exact_match") else "sign flips"
        print(
            f"  {metric}: {found.mean:+.4f} ± {found.standard_error:.4f} [{found.ci_low:+.4f}, {found.ci_high:+.4f}], "
            f"p = {found.p_value:.3g} ({test}), {found.n} items"
        )
