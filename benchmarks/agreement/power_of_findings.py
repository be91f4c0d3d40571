"""Error rates of the findings: simulated studies with a known truth, tested as any study is.

Prints, for each scenario and question, the share of studies with any false verdict (false positives; the stated rate is
5%) or the share of true claims that are found (power). Each study has eight checkpoints of a base model that improves
and levels off, two train sets with their own evaluation sets (scores between 0 and 1), and held-out text (bits per
byte). Items differ in difficulty, the same for all models.

    python benchmarks/agreement/power_of_findings.py --num_studies 1000
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis.inference.claims import forgetting, latent_benefit
from analysis.inference.contrasts import Contrast, compare_all
from analysis.inference.findings import FAMILIES, judge
from analysis.inference.gains import gain_against_skill
from analysis.inference.overtraining import null_statistics, peak_statistic
from analysis.inference.paired import evaluate_paired
from analysis.tables.columns import DIFFERENCE_COLUMNS, MISSING_COLUMNS, Comparison
from analysis.tables.curve_names import name_series
from analysis.tables.frames import Tables, as_table, empty_table, found_checkpoints
from analysis.tables.gathering import table_of
from analysis.tables.measurements import Cell

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
BASE = np.array([0.10, 0.20, 0.27, 0.30, 0.30, 0.30, 0.30, 0.30])
GAIN, GROWTH, LOSS = 0.2, 0.02, 0.03
TRAIN_SETS = ("summaries", "questions")
GAIN_FAMILIES = tuple(f for f in FAMILIES if f.startswith("latent benefit") and "level," not in f)


@dataclass(frozen=True)
class Scenario:
    latent: bool = False
    """The gain grows by GROWTH a checkpoint."""
    forgetting: bool = False
    """Fine-tuning costs LOSS bits per byte."""
    num_items: int = 100
    noise: float = 0.1
    """Standard deviation of a model's score on an item of given difficulty."""
    jitter: float = 0.0
    """Standard deviation between training runs of the same recipe."""
    num_seeds: int = 1
    slow_rise: float = 0.0
    """Improvement of the base model at every checkpoint."""


SCENARIOS = [
    Scenario(latent=latent, forgetting=loss, num_items=n, noise=noise)
    for latent in (False, True)
    for loss in (False, True)
    for n, noise in ((50, 0.1), (50, 0.3), (200, 0.1), (200, 0.3))
]
SCENARIOS += [Scenario(jitter=0.02), Scenario(latent=True, jitter=0.02), Scenario(slow_rise=0.003)]
SCENARIOS += [Scenario(jitter=0.02, num_seeds=3, forgetting=loss) for loss in (False, True)]


@dataclass(frozen=True)
class Args:
    num_studies: int = 1000
    """Simulated studies in each scenario."""
    only: tuple[int, ...] = ()
    """Numbers of the scenarios (default: all); the number after the last is that of statistics without a study."""


def main(args: Args) -> None:
    for number in args.only or range(len(SCENARIOS) + 1):
        if number == len(SCENARIOS):
            for name, share in {**gain_rates(args.num_studies), **peak_rates(args.num_studies)}.items():
                print(f"{share:6.1%}  {name}", flush=True)
            continue
        started, scenario = time.monotonic(), SCENARIOS[number]
        shares = judge_studies(scenario, args.num_studies)
        print(f"{number:2d} {describe(scenario)}  [{time.monotonic() - started:.0f} s]", flush=True)
        for question, (kind, share) in shares.items():
            print(f"     {kind:14s} {share:6.1%}  {question}", flush=True)


def describe(scenario: Scenario) -> str:
    changed = {key: value for key, value in vars(scenario).items() if value != vars(Scenario()).get(key)}
    return ", ".join(f"{key}={value}" for key, value in changed.items()) or "no effect"


def judge_studies(scenario: Scenario, num_studies: int) -> dict[str, tuple[str, float]]:
    """Question -> ("false positive", share of studies with one) or ("power", share of claims found)."""
    is_true = dict.fromkeys(GAIN_FAMILIES, scenario.latent) | {"forgetting": scenario.forgetting}
    if scenario.jitter and scenario.num_seeds == 1:
        del is_true["forgetting"]  # With one run of each recipe, the difference between runs is part of the claim.
    is_true["forgetting trend"] = False
    counts: dict[str, list[float]] = {}
    for seed in range(num_studies):
        tables = simulate(scenario, seed)
        found = [*latent_benefit(tables), *forgetting(tables)]
        for family, truth_of_family in is_true.items():
            verdicts = [judged.verdict for judged in judge([f for f in found if f.family == family])]
            if verdicts and truth_of_family:
                counts.setdefault(family, []).append(verdicts.count("supported") / len(verdicts))
            elif verdicts:
                counts.setdefault(family, []).append(float(not {"supported", "contradicted"}.isdisjoint(verdicts)))
    return {f: ("power" if is_true[f] else "false positive", float(np.mean(v))) for f, v in counts.items()}


def simulate(scenario: Scenario, seed: int) -> Tables:
    """The tables of one study, as made by produce_tables.py."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    cells: dict[tuple[str, str], dict[Any, Cell]] = {}
    ids = tuple(map(str, range(scenario.num_items)))
    weights = np.full(scenario.num_items, 50.0)
    for eval_set in (*TRAIN_SETS, "text"):
        difficulty = rng.normal(0, 0.1, scenario.num_items)
        for model in models_of(scenario):
            index, is_text = STEPS.index(model["step"]), eval_set == "text"
            level = truth(scenario, eval_set, model["train_set"], index)
            level += rng.normal(0, scenario.jitter) if model["train_set"] else 0.0
            values = level + difficulty + rng.normal(0, scenario.noise, scenario.num_items)
            kind = "text" if is_text else "generation"
            about = {"eval_set": eval_set, "eval dataset": eval_set, "format": "default", "shots": 0, "n": len(ids)}
            about |= {"protocol": "corrected", "kind": kind, "metric": "bits_per_byte" if is_text else "rouge_l"}
            about["role"] = "pre-training" if is_text else f"in-domain of {eval_set}"
            error = values.std(ddof=1) / np.sqrt(len(values))
            about |= {"Performance": values.mean(), "std": error, "ci_low": np.nan, "ci_high": np.nan}
            cell = Cell(ids, values * weights, weights) if is_text else Cell(ids, values, None)
            rows.append(model | about | {"cell": cell})
    named = name_series(rows)
    for row in named:
        key = (row["series"], row["checkpoint"], row["format"])
        cells.setdefault((row["setting"], row["metric"]), {})[key] = row["cell"]
    performance = table_of(named)

    def evaluate(setting: str, metric: str, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
        wanted = [contrast for contrast in contrasts if is_read(contrast, setting)]
        found = iter(evaluate_paired(wanted, cells[setting, metric]))
        return [next(found) if is_read(contrast, setting) else {"missing": "not evaluated"} for contrast in contrasts]

    differences = compare_all(performance, evaluate, found_checkpoints(performance))
    empty, nothing_missing = empty_table(tuple(performance.columns)), empty_table(MISSING_COLUMNS)
    return Tables(performance, empty, as_table(differences, DIFFERENCE_COLUMNS), nothing_missing)


def is_read(contrast: Contrast, setting: str) -> bool:
    """Whether a claim of this benchmark reads the contrast; the others, three in four, would take as much time."""
    if contrast.comparison in (Comparison.CHANGE, Comparison.CHANGE_GROWTH):
        return setting in ("text", contrast.series.split()[0])
    if setting == "text":
        return contrast.comparison == Comparison.MEAN_CHANGE
    return contrast.comparison == Comparison.LAST_MINUS_FIRST and contrast.series.split()[0] == setting


def models_of(scenario: Scenario) -> list[dict[str, Any]]:
    models = []
    for step in STEPS:
        base = {"family": "olmo1b", "step": step, "tokens": step, "epochs": None, "lr": None, "adapter": None}
        models.append(base | {"model_id": f"base-{step}", "train_set": None, "seed": None})
        for train_set in TRAIN_SETS:
            for seed in range(scenario.num_seeds):
                name = f"{train_set}-{step}-{seed}"
                models.append(base | {"model_id": name, "train_set": train_set, "seed": seed})
    return models


def truth(scenario: Scenario, eval_set: str, train_set: str | None, index: int) -> float:
    """Expected score, or bits per byte, of a model."""
    if eval_set == "text":
        return 1.5 - 0.05 * index + (LOSS if scenario.forgetting and train_set else 0.0)
    level = BASE[index] + scenario.slow_rise * index
    if train_set == eval_set:
        level += GAIN + (GROWTH * index if scenario.latent else 0.0)
    return float(level)


def gain_rates(num_studies: int) -> dict[str, float]:
    """Gain against skill, over eight tasks: gains that depend on skill or not, noisy base scores."""
    rates = {}
    for name, slope in (("false positive", 0.0), ("power", -0.5)):
        verdicts, naive = [], []
        for seed in range(num_studies):
            rng = np.random.default_rng(seed)
            skill = rng.uniform(0, 0.5, (8, 1))
            base = skill + rng.normal(0, 0.1, (8, 8))
            tuned = skill + 0.3 + slope * (skill - 0.25) + rng.normal(0, 0.05, (8, 8))
            (judged,) = judge([gain_against_skill("tasks", base, tuned - base, [])])
            verdicts.append(judged.verdict in ("supported", "contradicted"))
            gain = (tuned - base)[:, 0]
            naive.append(abs(np.corrcoef(base[:, 0], gain)[0, 1]) > 0.707)  # p < 0.05 for eight points
        rates[f"who gains most: {name}"] = float(np.mean(verdicts))
        rates[f"  plain correlation of gain and base score, {name}"] = float(np.mean(naive))
    return rates


def peak_rates(num_studies: int) -> dict[str, float]:
    """Over-training: curves of eight or sixteen checkpoints, with and without a decline."""
    rates = {}
    for n in (8, 16):
        x = np.linspace(0, 1, n)
        curves = {
            "false positive, level": 0 * x,
            "false positive, rising": x,
            "false positive, levels off": np.minimum(3 * x, 1),
        }
        curves |= {"power, falls": np.minimum(2 * x, 1) - np.clip(2 * x - 1, 0, None)}
        for name, curve in curves.items():
            found = 0
            for seed in range(num_studies):
                scores = curve + np.random.default_rng(seed).normal(0, 0.1, n)
                statistic, _ = peak_statistic(scores)
                found += (null_statistics(n) >= statistic).mean() <= 0.05
            rates[f"over-training, {n} checkpoints: {name}"] = found / num_studies
    return rates


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
