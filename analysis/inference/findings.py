"""Every finding of a study: all claims tested, corrected for multiple comparisons, with verdict and sentence.

A claim is judged where it was seen in at least FEWEST_REPLICATES replicates: supported or contradicted where its
adjusted p-value is at most 5%, else undecided. With fewer it is described. The primary claim of a study is tested
alone; the false discovery rate of all others together is held at 5% (Benjamini and Hochberg 1995), and at 1% where the
primary claim is not found: so where nothing is true, at most 5% of studies hold a false primary claim and hardly any
study another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.inference.claims import (
    forgetting,
    format_sensitivity,
    gain,
    latent_benefit,
    other_tasks,
    over_training,
    pre_training,
    suites,
    who_gains_most,
)
from analysis.inference.finding import SLOPE, Finding, format_p, sign, without_constant_gold
from analysis.inference.multiplicity import adjusted
from analysis.inference.result_tables import Results
from analysis.inference.weight_claims import distance_and_gain, noise_sensitivity
from analysis.tables.frames import Tables, read_table
from analysis.tables.latex import to_latex
from analysis.tables.replicates import FEWEST_REPLICATES, SEED
from open_instruct.common.artifacts import Artifact
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import atomic_write, write_json
from open_instruct.study.config import PrimaryClaim, Question

LEVEL = 0.05
STRICT_LEVEL = 0.01
"""Of the other claims, where a study names a primary claim and does not find it."""
FEWEST_ITEMS = 20
"""With fewer, tests err more often where items are skewed: 5.3% on 10 lognormal items, 9% on 5 (crossed.py)."""
NOT_TESTABLE, DESCRIBED = "not testable", "described"
LATEX_COLUMNS = ("claim", "effect", "ci_low", "ci_high", "p_adjusted", "verdict")
VERDICTS = ("supported", "contradicted", "undecided", DESCRIBED, NOT_TESTABLE)
QUESTIONS: dict[Question, str] = {
    "pre-training": "Do bits per byte on held-out text fall with longer pre-training?",
    "fine-tuning gain": "Does fine-tuning improve in-domain performance at every checkpoint?",
    "latent benefit: level": "Does the fine-tuned model's bits per byte fall with longer pre-training?",
    "latent benefit: level, score": "Does the fine-tuned model's score rise with longer pre-training?",
    "latent benefit: gain": "Does the gain by fine-tuning in bits per byte grow with longer pre-training?",
    "latent benefit: gain, score": "Does the gain by fine-tuning in score grow with longer pre-training?",
    "latent benefit: plateau": "Does the gain in bits per byte grow while the base model is level?",
    "latent benefit: plateau, score": "Does the gain in score grow while the base model is level?",
    "over-training": "Is there a checkpoint after which fine-tuned quality falls?",
    "who gains most": "Do tasks on which the base model is weak gain most from fine-tuning?",
    "forgetting": "Does fine-tuning raise bits per byte on held-out text (forgetting)?",
    "forgetting trend": "Does forgetting depend on the length of pre-training?",
    "weight noise": "Are models more sensitive to weight noise after longer pre-training?",
    "distance and gain": "Is a larger weight change by fine-tuning accompanied by a larger gain?",
    "other tasks": "How does fine-tuning change performance on tasks it was not trained on?",
    "suites": "How does fine-tuning change accuracy on the ranked-classification suites?",
    "format sensitivity": "Are fine-tuned models more sensitive to the prompt format than base models?",
    "format sensitivity trend": "Does the sensitivity to the prompt format fall with pre-training?",
}


def find(tables: Tables, primary: PrimaryClaim | None = None) -> list[Finding]:
    """Every finding that the tables allow, with verdicts, in the order of QUESTIONS.

    Raises UserError where `primary` is not exactly one of them.
    """
    tables = without_constant_gold(tables)
    found = [*pre_training(tables), *gain(tables), *latent_benefit(tables), *over_training(tables)]
    found += [*who_gains_most(tables), *forgetting(tables)]
    found += [*noise_sensitivity(tables), *distance_and_gain(tables)]
    found += [*other_tasks(tables), *suites(tables), *format_sensitivity(tables)]
    found = [one for question in QUESTIONS for one in found if one.question == question]
    return judge(found if primary is None else with_primary(found, primary))


def with_primary(found: Sequence[Finding], primary: PrimaryClaim) -> list[Finding]:
    wanted = {name: str(value) for name, value in asdict(primary).items() if value is not None}
    matching = [one for one in found if all(str(getattr(one, name)) == value for name, value in wanted.items())]
    if len(matching) != 1:
        listed = "; ".join(one.claim for one in matching[:5]) or "none"
        raise UserError(
            f"primary: found {len(matching)} claims with {', '.join(f'{k} {v}' for k, v in wanted.items())} "
            f"({listed}); expected one: narrow it by family, train_set, eval_set, metric, checkpoint"
        )
    return [replace(one, is_primary=True) if one is matching[0] else one for one in found]


def judge(found: Sequence[Finding]) -> list[Finding]:
    """Add adjusted p-value, verdict and sentence to every finding."""
    found = [enough_items(one) for one in found]
    is_judged = [one.p_value is not None and one.replicates >= FEWEST_REPLICATES and not one.missing for one in found]
    p_values = np.array(
        [one.p_value if judged else np.nan for one, judged in zip(found, is_judged, strict=True)], float
    )
    primary = np.array([one.is_primary for one in found], dtype=bool)
    others = adjusted(np.where(primary, np.nan, p_values))
    if primary.any() and not np.nanmin(p_values[primary], initial=1.0) <= LEVEL:
        others = np.minimum(others * LEVEL / STRICT_LEVEL, 1.0)
    p_adjusted = np.where(primary, p_values, others)
    judged = []
    for one, p in zip(found, p_adjusted.tolist(), strict=True):
        one = replace(one, p_adjusted=None if np.isnan(p) else p)
        one = replace(one, verdict=verdict_of(one))
        judged.append(replace(one, sentence=sentence_of(one)))
    return judged


def enough_items(one: Finding) -> Finding:
    if one.n is None or one.n >= FEWEST_ITEMS or one.missing or one.replicates < FEWEST_REPLICATES:
        return one
    return replace(one, missing=f"{one.n} independent items, {FEWEST_ITEMS} needed")


def verdict_of(one: Finding) -> str:
    if one.effect is None or one.missing:
        return NOT_TESTABLE
    if one.replicates < FEWEST_REPLICATES:
        return DESCRIBED
    if one.p_adjusted is None:
        return NOT_TESTABLE
    if one.p_adjusted > LEVEL:
        return "undecided"
    return "supported" if one.expected in (0, sign(one.effect)) else "contradicted"


def sentence_of(one: Finding) -> str:
    if one.verdict == NOT_TESTABLE:
        why = one.missing or "no variation over items and replicates"
        return f"Not testable: {one.claim} ({why}{'; primary claim' if one.is_primary else ''})."
    note = f"; {one.note}" if one.note else ""
    if one.verdict == DESCRIBED:
        these = "this run" if one.replicates == 1 else f"these {one.replicates} {one.unit}s"
        if one.question == "weight noise":
            over = "over draws of the noise" if one.replicates == 1 else "over replicates"
        else:
            over = "over items only" if one.replicates == 1 else "over items and replicates"
        if one.is_primary:
            note += f"; primary claim, not judged with {one.replicates} of {FEWEST_REPLICATES} replicates"
        return f"In {these}, the {one.quantity} is {effect_of(one)}{interval_of(one, over)}{note}."
    opening = one.verdict.capitalize() + (" (opposite sign)" if one.verdict == "contradicted" else "")
    test = f"primary claim, p {format_p(one.p_adjusted)}" if one.is_primary else f"q {format_p(one.p_adjusted)}"
    over = f"over {one.replicates} {one.unit or 'replicate'}s" + (" of one run" if one.unit == SEED else "")
    over += f" and {one.n} independent items" if one.n else ""
    per = f" {SLOPE}" if one.quantity.endswith(SLOPE) else ""
    return f"{opening}: {one.claim} ({effect_of(one)}{per}{interval_of(one, over)}; {test}{note})."


def effect_of(one: Finding) -> str:
    return f"{one.effect:+.3g}"


def interval_of(one: Finding, over: str) -> str:
    if one.ci_low is None or one.ci_high is None:
        return ""
    return f", 95% interval {one.ci_low:+.3g} to {one.ci_high:+.3g} {over}"


def findings_of(results: Results, folder: Path) -> pd.DataFrame:
    """findings.csv of a results folder; where all_perf_table.csv was replaced there, the findings of the new one."""
    return frame_of(find(results.tables)) if results.is_replaced else read_table(folder / "findings.csv")


def frame_of(findings: Sequence[Finding]) -> pd.DataFrame:
    return pd.DataFrame([asdict(finding) for finding in findings], columns=list(Finding.__dataclass_fields__))


def write_findings(findings: Sequence[Finding], folder: Path, inputs: Mapping[str, Path]) -> None:
    """Write findings.json, findings.csv, and the claims with their verdicts as LaTeX to findings.tex."""
    rows = [asdict(finding) for finding in findings]
    frame = frame_of(findings)
    with Artifact(folder / "findings.json", arguments={"level": LEVEL}, inputs=inputs).making():
        write_json(folder / "findings.json", {"level": LEVEL, "questions": QUESTIONS, "findings": rows})
    table = Artifact(folder / "findings.csv", arguments={"level": LEVEL}, inputs=inputs)
    with table.making(), atomic_write(table.path) as file:
        frame.to_csv(file, index=False)
    with Artifact(folder / "findings.tex", arguments={"level": LEVEL}, inputs=inputs).making():
        to_latex(frame.filter(LATEX_COLUMNS), folder / "findings.tex")
    for finding in findings:
        print(f"[{finding.question}] {finding.sentence}")
