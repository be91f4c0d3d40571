"""Every finding of a study: all claims tested, corrected for multiple comparisons, with verdict and sentence.

P-values are Holm-corrected within each family of claims. A claim is supported or contradicted where the corrected
p-value is at most 0.05 and the interval excludes zero on the side that the test found; elsewhere it is undecided.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from analysis.inference.claims import (
    forgetting,
    format_sensitivity,
    latent_benefit,
    other_tasks,
    own_task,
    pre_training,
    suites,
)
from analysis.inference.finding import KENDALL, KENDALL_TASKS, Finding
from analysis.inference.gains import who_gains_most
from analysis.inference.overtraining import over_training
from analysis.inference.weight_claims import distance_and_gain, noise_sensitivity
from analysis.tables.columns import METRIC_LABELS
from analysis.tables.frames import Tables
from analysis.tables.latex import to_latex
from eval.metrics.significance import holm
from open_instruct.common.artifacts import Artifact
from open_instruct.common.json_files import atomic_write, write_json

LEVEL = 0.05
NOT_TESTABLE = "not testable"
LATEX_COLUMNS = ("claim", "effect", "ci_low", "ci_high", "p_holm", "verdict")
VERDICTS = ("supported", "contradicted", "undecided", NOT_TESTABLE)
FAMILIES = {
    "pre-training": "Does bits per byte on held-out text fall from each checkpoint to the next?",
    "pre-training trend": "Does bits per byte on held-out text fall over all checkpoints?",
    "fine-tuning gain": "Does fine-tuning improve in-domain performance at every checkpoint?",
    "latent benefit: level": "Does the fine-tuned model's bits per byte fall with longer pre-training?",
    "latent benefit: level, score": "Does the fine-tuned model's score rise with longer pre-training?",
    "latent benefit: gain": "Does the gain by fine-tuning in bits per byte grow with longer pre-training?",
    "latent benefit: gain, score": "Does the gain by fine-tuning in score grow with longer pre-training?",
    "latent benefit: after levelling": "Does the gain in bits per byte grow after the base model has plateaued?",
    "latent benefit: after levelling, score": "Does the gain in score grow after the base model has plateaued?",
    "over-training": "Is there a checkpoint after which fine-tuned quality falls?",
    "who gains most": "Do tasks on which the base model is weak gain most from fine-tuning?",
    "forgetting": "Does fine-tuning raise bits per byte on held-out text (forgetting)?",
    "forgetting trend": "Does forgetting change with pre-training?",
    "noise: base": "Are base models more sensitive to weight noise after longer pre-training?",
    "noise: fine-tuned": "Are fine-tuned models more sensitive to weight noise after longer pre-training?",
    "distance and gain": "Is a larger weight change by fine-tuning accompanied by a larger gain?",
    "other tasks": "How does fine-tuning change performance on tasks it was not trained on?",
    "suites": "How does fine-tuning change accuracy on the ranked-classification suites?",
    "format sensitivity": "Are fine-tuned models more sensitive to the prompt format than base models?",
    "format sensitivity trend": "Does the format sensitivity of fine-tuned models fall with pre-training?",
    "format sensitivity trend: base": "Does the format sensitivity of base models fall with pre-training?",
}


def find(tables: Tables) -> list[Finding]:
    """Every finding that the tables allow, with verdicts, in the order of FAMILIES."""
    found = [*pre_training(tables), *own_task(tables), *latent_benefit(tables), *forgetting(tables)]
    found += [*over_training(tables), *who_gains_most(tables)]
    found += [*noise_sensitivity(tables), *distance_and_gain(tables)]
    found += [*other_tasks(tables), *suites(tables), *format_sensitivity(tables)]
    return [finding for family in FAMILIES for finding in judge([f for f in found if f.family == family])]


def judge(family: list[Finding]) -> list[Finding]:
    """Correct one family of claims by Holm's method, then add verdict and sentence to each."""
    tested = [f for f in family if f.p_value is not None]
    corrected = dict(zip(map(id, tested), holm([f.p_value or 0.0 for f in tested]), strict=True)) if tested else {}
    judged = []
    for finding in family:
        p_holm = corrected.get(id(finding))
        verdict = verdict_of(finding, p_holm)
        # Of n! orders of n checkpoints two are monotone, so no trend has a smaller p-value than 2 / n!.
        if verdict == "undecided" and finding.test in (KENDALL, KENDALL_TASKS):
            reachable = 2 / math.factorial(finding.n or 1) * len(tested)
            unit = "checkpoints" if finding.test == KENDALL else "tasks"
            if reachable > LEVEL + 1e-9:
                finding = replace(finding, note=f"{finding.note}; with so few {unit} p >= {reachable:.2g}")
        judged.append(replace(finding, p_holm=p_holm, verdict=verdict, sentence=sentence_of(finding, p_holm, verdict)))
    return judged


def verdict_of(finding: Finding, p_holm: float | None) -> str:
    if finding.effect is None or p_holm is None:
        return NOT_TESTABLE
    # 2/5! times 3 claims is 0.05 exactly and a little more in floating point.
    if p_holm > LEVEL + 1e-9 or not interval_agrees(finding):
        return "undecided"
    return "supported" if finding.expected in (0, finding.direction) else "contradicted"


def interval_agrees(finding: Finding) -> bool:
    """Whether the whole interval is on the side of zero that the test found.

    Five checkpoints can be in monotone order by chance while their values hardly differ: a trend needs an effect, too.
    """
    if finding.ci_low is None or finding.ci_high is None:
        return False
    return finding.ci_low > 0 if finding.direction > 0 else finding.ci_high < 0


def sentence_of(finding: Finding, p_holm: float | None, verdict: str) -> str:
    if verdict == NOT_TESTABLE:
        return f"Not testable: {finding.claim} ({finding.missing or 'too few checkpoints'})."
    interval = ""
    if finding.ci_low is not None and finding.ci_high is not None:
        interval = f", 95% interval {finding.ci_low:+.3g} to {finding.ci_high:+.3g}"
    effect = f"change of {METRIC_LABELS.get(finding.metric, finding.metric)} {finding.effect:+.3g}{interval}"
    opening = verdict.capitalize() + (" (opposite sign)" if verdict == "contradicted" else "")
    return f"{opening}: {finding.claim} ({effect}; p {format_p(p_holm)} after Holm{finding.note})."


def format_p(p_value: float | None) -> str:
    return "n/a" if p_value is None else "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"


def write_findings(findings: list[Finding], folder: Path, inputs: Mapping[str, Path]) -> None:
    """Write findings.json, findings.csv, and the claims with their verdicts as LaTeX to findings.tex."""
    rows = [asdict(finding) for finding in findings]
    frame = pd.DataFrame(rows, columns=list(Finding.__dataclass_fields__))
    with Artifact(folder / "findings.json", arguments={"level": LEVEL}, inputs=inputs).making():
        write_json(folder / "findings.json", {"level": LEVEL, "families": FAMILIES, "findings": rows})
    table = Artifact(folder / "findings.csv", arguments={"level": LEVEL}, inputs=inputs)
    with table.making(), atomic_write(table.path) as file:
        frame.to_csv(file, index=False)
    with Artifact(folder / "findings.tex", arguments={"level": LEVEL}, inputs=inputs).making():
        to_latex(frame.filter(LATEX_COLUMNS), folder / "findings.tex")
    for finding in findings:
        print(f"[{finding.family}] {finding.sentence}")
