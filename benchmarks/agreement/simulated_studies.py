"""Error rates of the verdicts: studies with a known truth go through the code that makes tables and findings.

Prints two tables. In the first each scenario has the share of false verdicts among a study's (where nothing is true the
share of studies with any), without a primary claim and with one, the question with the most studies in which it has a
false verdict, and the question whose claims have most often a p-value of at most 5% of their own. A false verdict is
one on an effect that is zero, or with the wrong sign. Rates have the one-sided 99% bounds of the simulation's own error
(Clopper and Pearson 1934; of several claims with the effective number of studies, Korn and Graubard 1998), and are
marked HIGH where the lower bound exceeds 5%; studies where some effects are real may have more false verdicts on one
question. The second table has the share of true claims found. --output_file takes the rates of every question.

    python benchmarks/agreement/simulated_studies.py --num_studies 1000 --output_file error_rates.json
"""

import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from analysis.inference.finding import Finding, sign
from analysis.inference.findings import LEVEL, QUESTIONS, find, judge, with_primary
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import write_json
from open_instruct.common.paths import REPOSITORY
from open_instruct.study.config import PrimaryClaim

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "agreement"))
from simulation import Design, Noise, Truth, simulate

BOUND = 0.99
PRIMARY = PrimaryClaim("fine-tuning gain", train_set="xsum", metric="rouge_l", checkpoint=4)
"""At the middle checkpoint, where the gain is exactly that of the scenario."""
ALL, WITH_PRIMARY, PRIMARY_ALONE = "all claims", "all claims, with primary claim", "primary claim"
CHUNK = 25
"""Studies that a process simulates at once."""
LEVELS = dict.fromkeys(("latent benefit: level", "latent benefit: level, score"), 1)
GAINS = dict.fromkeys(("latent benefit: gain", "latent benefit: gain, score"), 1)
PLATEAUS = dict.fromkeys(("latent benefit: plateau", "latent benefit: plateau, score"), 1)
GAIN = {"fine-tuning gain": 1}


@dataclass(frozen=True)
class Scenario:
    design: Design
    true: Mapping[str, int]
    """Question -> 1 where its claims are true, -1 where the opposite is; of claims without a sign the effect's."""
    mixed: frozenset[str] = frozenset()
    """Questions some of whose claims are true and some not, which are not counted."""


def designs_without_effects() -> dict[str, Design]:
    found = {"item noise alone, 3 runs": Design(3, noise=Noise(runs=0))}
    found |= {"run noise, 1 run": Design(1), "run noise, 3 runs": Design(3), "run noise, 5 runs": Design(5)}
    for rho in (0.5, 0.8, 0.95):
        found[f"checkpoints AR(1), rho {rho}, 5 runs"] = Design(5, noise=Noise(rho=rho))
    found["random walks, 5 runs"] = Design(5, noise=Noise(rho=1.0))
    found["skewed items, 3 runs"] = Design(3, noise=Noise(runs=0.5, items=50, skewed=True))
    found["clustered items, 3 runs"] = Design(3, noise=Noise(runs=0.5, items=200, clusters=10))
    unequal = Noise(of_formats=(0.01, 0.30), formats=(0, 0))
    found["formats of unequal noise, 3 runs"] = Design(3, noise=unequal)
    found["formats that differ by model, 5 runs"] = Design(5, noise=Noise(formats_by_run=True))
    found["run noise, 3 seeds of one run"] = Design(3, seeds=True)
    return found


def scenarios() -> dict[str, Scenario]:
    found = {name: Scenario(design, {}) for name, design in designs_without_effects().items()}
    mixed = frozenset({"who gains most"})  # the gains of tasks are equal in item errors, not in scores
    found["equal log-odds gains, 5 runs"] = Scenario(Design(5, truth=Truth(log_odds=1)), GAIN)
    growing = GAIN | LEVELS | GAINS | PLATEAUS | {"over-training": -1}, mixed
    monotone = Design(5, truth=Truth(gain=4, growth=1), monotone=True)
    found["monotone weight change and gain, 5 runs"] = Scenario(monotone, *growing)
    on_plateau = Design(5, noise=Noise(runs=1, size=0.2), truth=Truth(gain=3, growth=1))
    for name, rise in (("base rises by 0.03 per doubling", 0.03), ("base rises by half a margin per doubling", 0.01)):
        rising = replace(on_plateau, truth=replace(on_plateau.truth, rise=rise))
        found[f"{name}, 5 runs"] = Scenario(rising, GAIN | LEVELS | GAINS | {"over-training": -1}, mixed)
    found["base is level, gain grows, 5 runs"] = Scenario(on_plateau, *growing)
    effects = Truth(3, growth=1, forgetting=3, forgetting_growth=1, text=1, other=3, suite=3, weights=2, distance=True)
    of_formats = Noise(runs=1, formats=(0.02, 0.06), format_slope=0.15)
    everything = dict.fromkeys(QUESTIONS, 1) | {"over-training": -1}
    not_asked = frozenset(LEVELS | GAINS | PLATEAUS)
    for runs in (5, 3):
        design = Design(runs, noise=of_formats, truth=effects)
        found[f"effects of 3 item errors, {runs} runs"] = Scenario(design, everything, mixed | frozenset(PLATEAUS))
    falling = Design(5, noise=Noise(runs=1), truth=Truth(gain=6, fall=6))
    found["fall by 6 item errors, 5 runs"] = Scenario(falling, GAIN | {"over-training": 1}, not_asked | mixed)
    design = Design(5, noise=Noise(runs=1), truth=Truth(skill=0.4))
    found["gain 0.4 smaller per unit of skill, 5 runs"] = Scenario(design, GAIN | {"who gains most": 1})
    return found


SCENARIOS = scenarios()


@dataclass(frozen=True)
class Args:
    num_studies: int = 1000
    """Simulated studies in each scenario."""
    only: tuple[str, ...] = ()
    """Scenarios whose name contains one of these (none: all)."""
    processes: int = 2
    output_file: Path | None = None
    """Write every rate as JSON, too."""


def main(args: Args) -> None:
    chosen = [name for name in SCENARIOS if not args.only or any(part in name for part in args.only)]
    if not chosen:
        raise UserError(f"--only {' '.join(args.only)}: no such scenario; there are {'; '.join(SCENARIOS)}")
    started, results = time.monotonic(), []
    # Nothing that a study makes is in a cycle that grows, and looking for one costs 7% of the time.
    with ProcessPoolExecutor(args.processes, initializer=gc.disable) as pool:
        for name in chosen:
            starts = range(0, args.num_studies, CHUNK)
            chunks = [range(start, min(start + CHUNK, args.num_studies)) for start in starts]
            studies = [study for chunk in pool.map(partial(judge_studies, name), chunks) for study in chunk]
            results += summarise(name, studies)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"{args.num_studies} studies a scenario\n\n{error_table(results)}\n\n{power_table(results)}\n")
    flagged = [f"{row['scenario']}: {row['question']} ({', '.join(row['flags'])})" for row in results if row["flags"]]
    print(f"rates above {LEVEL:.0%}: " + ("; ".join(flagged) or "none"))
    if args.output_file:
        write_json(args.output_file, {"num_studies": args.num_studies, "bound": BOUND, "rates": results})


Counts = dict[str, tuple[int, int, int, int]]
"""Question -> claims that can be judged, and of these false verdicts, false p-values at most 5%, right verdicts."""


def judge_studies(name: str, seeds: Sequence[int]) -> list[Counts]:
    return [judge_study(SCENARIOS[name], np.random.default_rng([seed, *name.encode()])) for seed in seeds]


def judge_study(scenario: Scenario, rng: np.random.Generator) -> Counts:
    found = find(simulate(scenario.design, rng))
    counts: Counts = {}
    for question in QUESTIONS:
        of_question = [one for one in found if one.question == question]
        counts[question] = count(scenario, of_question)
    counts[ALL] = count(scenario, found)
    with_one = judge(with_primary(found, PRIMARY))
    counts[WITH_PRIMARY] = count(scenario, with_one)
    counts[PRIMARY_ALONE] = count(scenario, [one for one in with_one if one.is_primary])
    return counts


def count(scenario: Scenario, found: Sequence[Finding]) -> tuple[int, int, int, int]:
    counted = [one for one in found if one.question not in scenario.mixed]
    kinds = [kind_of(scenario, one) for one in counted]
    wrong_p = [one for one in counted if is_small(one) and not is_right(scenario, one)]
    return len(counted), kinds.count("false"), len(wrong_p), kinds.count("right")


def kind_of(scenario: Scenario, one: Finding) -> str:
    if one.verdict not in ("supported", "contradicted"):
        return "none"
    return "right" if is_right(scenario, one) else "false"


def is_right(scenario: Scenario, one: Finding) -> bool:
    """Whether the effect has the sign that it has in truth."""
    truth = scenario.true.get(one.question, 0)
    return truth != 0 and sign(one.effect) == truth * (one.expected or 1)


def is_small(one: Finding) -> bool:
    return one.p_value is not None and not one.missing and one.p_value <= LEVEL


def summarise(name: str, studies: Sequence[Counts]) -> Iterator[dict[str, Any]]:
    """Rates of each question that the scenario has."""
    scenario = SCENARIOS[name]
    for question in studies[0]:
        counts = np.array([study[question] for study in studies], dtype=float)  # (studies, 4)
        claims, false, small, right = counts.T
        if not claims.any():
            continue
        is_true = question in scenario.true or (question == PRIMARY_ALONE and PRIMARY.question in scenario.true)
        is_whole = question in (ALL, WITH_PRIMARY)
        row = {"scenario": name, "question": question, "claims": claims.mean()}
        row["studies"] = with_bounds(false > 0)
        row["false claims"] = with_bounds(false / claims)
        row["p"] = None if is_whole else with_bounds(small / claims)
        verdicts = np.maximum(false + right, 1)
        row["false discoveries"] = with_bounds(false / verdicts)
        row["found"] = float((right / claims).mean()) if is_true else None
        # Where some effects are real, what is held is the false discovery rate, not the share of studies.
        judged = ["false discoveries"] if is_whole else ["false claims", "p", *([] if scenario.true else ["studies"])]
        row["flags"] = [column for column in judged if row[column][1] > LEVEL]
        yield row


def with_bounds(shares: np.ndarray) -> tuple[float, float, float]:
    """Mean of `shares` (studies,), and its one-sided lower and upper bounds."""
    mean, n = float(shares.mean()), len(shares)
    if 0 < mean < 1:
        n = n * mean * (1 - mean) / max(float(shares.var()), 1e-9)  # studies of one claim, with the same error
    low = float(stats.beta.ppf(1 - BOUND, mean * n, n - mean * n + 1)) if mean > 0 else 0.0
    high = float(stats.beta.ppf(BOUND, mean * n + 1, n - mean * n)) if mean < 1 else 1.0
    return mean, low, high


def error_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each scenario: whole studies, and its worst question."""
    lines = [
        "| scenario | false discoveries | with a primary claim | worst question: studies | worst question: p ≤ 5% |"
    ]
    lines.append("|---|---|---|---|---|")
    for name in dict.fromkeys(row["scenario"] for row in results):
        of_scenario = [row for row in results if row["scenario"] == name]
        whole, with_primary = (row for row in of_scenario if row["p"] is None)
        questions = [row for row in of_scenario if row["question"] in QUESTIONS]
        cells = [name, shown(whole, "false discoveries"), shown(with_primary, "false discoveries")]
        for column in ("studies", "p"):
            worst = max(questions, key=lambda row, column=column: row[column][1])
            cells.append(f"{shown(worst, column)}: {worst['question']}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(row: Mapping[str, Any], column: str) -> str:
    mean, low, high = row[column]
    return f"{mean:.1%} ({low:.1%} to {high:.1%})" + (" **HIGH**" if column in row["flags"] else "")


def power_table(results: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| scenario | true claims found |", "|---|---|"]
    for name in dict.fromkeys(row["scenario"] for row in results):
        found = [
            f"{r['question']} {r['found']:.0%}" for r in results if r["scenario"] == name and r["found"] is not None
        ]
        if found:
            lines.append(f"| {name} | {', '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    run(main, Args)
