"""Put the study's claims to the data: for each an effect, an interval, a p-value and one plain sentence.

Reads    the tables of results/analysis (made by produce_tables.py).
Writes   results/analysis/findings.json and findings.csv.
P-values are Holm-corrected within each family of claims. Where one is at most 0.05 and the interval lies on one side
of zero, the claim is supported or contradicted; elsewhere it is undecided.

    python analysis/findings.py
"""

import math
from dataclasses import asdict, dataclass, replace

import pandas as pd

from analysis.inference.claims import (
    KENDALL,
    KENDALL_TASKS,
    Finding,
    forgetting,
    format_sensitivity,
    latent_benefit,
    other_tasks,
    own_task,
    pre_training,
    suites,
)
from analysis.inference.gains import who_gains_most
from analysis.inference.overtraining import over_training
from analysis.inference.weight_claims import distance_and_gain, noise_sensitivity
from analysis.tables.frames import (
    METRIC_LABELS,
    Tables,
    read_tables,
    table_files,
)
from eval.metrics.significance import holm
from open_instruct.common import paths
from open_instruct.common.artifacts import Artifact
from open_instruct.common.cli import run
from open_instruct.common.json_files import write_json

LEVEL = 0.05
FAMILIES = {
    "pre-training": "Does each stretch of pre-training lower the bits per byte of held-out text?",
    "pre-training trend": "Do the bits per byte of held-out text fall over all checkpoints?",
    "fine-tuning gain": "Does fine-tuning improve its own task at every checkpoint?",
    "latent benefit: level": "Does a fine-tuned model's completion get cheaper the longer its base was pre-trained?",
    "latent benefit: level, score": "Does a fine-tuned model's score rise the longer its base was pre-trained?",
    "latent benefit: gain": "Does fine-tuning gain more, in bits per byte, the longer the base was pre-trained?",
    "latent benefit: gain, score": "Does fine-tuning gain more, in score, the longer the base was pre-trained?",
    "latent benefit: after levelling": "Does that gain, in bits per byte, grow even once the base has levelled off?",
    "latent benefit: after levelling, score": "Does that gain, in score, grow even once the base has levelled off?",
    "over-training": "Is there a checkpoint after which fine-tuned quality falls?",
    "who gains most": "Do tasks that the base model cannot do gain most from fine-tuning?",
    "forgetting": "Does fine-tuning cost bits per byte on held-out text?",
    "forgetting trend": "Does that cost change with pre-training?",
    "noise: base": "Do base models bear noise on their weights less well the longer they were pre-trained?",
    "noise: fine-tuned": "Do fine-tuned models bear noise on their weights less well with pre-training?",
    "distance and gain": "Does fine-tuning gain more where it moves the weights further?",
    "other tasks": "What does fine-tuning do to tasks it was not trained on?",
    "suites": "What does fine-tuning do to the ranked-classification suites?",
    "format sensitivity": "Are fine-tuned models more sensitive to the prompt format than base models?",
    "format sensitivity trend": "Does that sensitivity fall with pre-training?",
    "format sensitivity trend: base": "Does the base models' sensitivity to the prompt format fall with pre-training?",
}


@dataclass(frozen=True)
class Args:
    """No arguments: the tables say what there is."""


def main(args: Args) -> None:
    folder = paths.results_dir()
    tables, inputs = read_tables(folder), table_files(folder)
    findings = find(tables)
    with Artifact(folder / "findings.json", arguments={"level": LEVEL}, inputs=inputs).making():
        rows = [asdict(finding) for finding in findings]
        write_json(folder / "findings.json", {"level": LEVEL, "families": FAMILIES, "findings": rows})
    with Artifact(folder / "findings.csv", arguments={"level": LEVEL}, inputs=inputs).making():
        pd.DataFrame(rows, columns=list(Finding.__dataclass_fields__)).to_csv(folder / "findings.csv", index=False)
    for finding in findings:
        print(f"[{finding.family}] {finding.sentence}")


def find(tables: Tables) -> list[Finding]:
    """Every finding the tables allow, judged, in the order of FAMILIES."""
    found = [*pre_training(tables), *own_task(tables), *latent_benefit(tables), *forgetting(tables)]
    found += [*over_training(tables), *who_gains_most(tables)]
    found += [*noise_sensitivity(tables), *distance_and_gain(tables)]
    found += [*other_tasks(tables), *suites(tables), *format_sensitivity(tables)]
    return [finding for family in FAMILIES for finding in judge([f for f in found if f.family == family])]


def judge(family: list[Finding]) -> list[Finding]:
    """Holm's correction over one family of claims, then verdict and sentence."""
    tested = [f for f in family if f.p_value is not None]
    corrected = dict(zip(map(id, tested), holm([f.p_value or 0.0 for f in tested]), strict=True)) if tested else {}
    judged = []
    for finding in family:
        p_holm = corrected.get(id(finding))
        verdict = verdict_of(finding, p_holm)
        # Of n! orders of n checkpoints two are monotone, so no trend has a smaller p-value than 2 / n!.
        if verdict == "undecided" and finding.test in (KENDALL, KENDALL_TASKS):
            reachable = 2 / math.factorial(finding.n or 1) * len(tested)
            things = "checkpoints" if finding.test == KENDALL else "tasks"
            if reachable > LEVEL + 1e-9:
                finding = replace(finding, note=f"{finding.note}; with so few {things} p >= {reachable:.2g}")
        judged.append(replace(finding, p_holm=p_holm, verdict=verdict, sentence=sentence_of(finding, p_holm, verdict)))
    return judged


def verdict_of(finding: Finding, p_holm: float | None) -> str:
    if finding.effect is None or p_holm is None:
        return "missing"
    # 2/5! times 3 claims is 0.05 on paper and a little more in floating point.
    is_clear = p_holm <= LEVEL + 1e-9 and interval_agrees(finding)
    if not is_clear:
        return "undecided"
    return "supported" if finding.expected in (0, finding.direction) else "contradicted"


def interval_agrees(finding: Finding) -> bool:
    """Whether the whole interval lies on the side of zero that the test found.

    An order of five checkpoints can come about by chance in numbers that hardly differ: a trend has to move, too.
    """
    if finding.ci_low is None or finding.ci_high is None:
        return False
    return finding.ci_low > 0 if finding.direction > 0 else finding.ci_high < 0


def sentence_of(finding: Finding, p_holm: float | None, verdict: str) -> str:
    if verdict == "missing":
        return f"Cannot be told: whether {finding.claim} ({finding.missing or 'too few checkpoints'})."
    interval = ""
    if finding.ci_low is not None and finding.ci_high is not None:
        interval = f", 95% interval {finding.ci_low:+.3g} to {finding.ci_high:+.3g}"
    numbers = f"change of {METRIC_LABELS.get(finding.metric, finding.metric)} {finding.effect:+.3g}{interval}; "
    numbers += f"p {format_p(p_holm)} after Holm{finding.note}"
    opening = {
        "supported": f"Supported: {finding.claim}",
        "contradicted": f"Contradicted, for the opposite holds: {finding.claim}",
        "undecided": f"Undecided: the data cannot tell whether {finding.claim}",
    }[verdict]
    return f"{opening} ({numbers})."


def format_p(p_value: float | None) -> str:
    return "n/a" if p_value is None else "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"


if __name__ == "__main__":
    run(main, Args)
