"""One study with a known truth, as the tables that produce_tables.py would make of its measurements.

Three train sets, each with an evaluation set of its own (two with generation scores, one of them in three formats and
in bits per byte, one with labels), held-out text, one other task and one suite task; five checkpoints and step 0.
The noise of items and runs is that of fine-tuned minus base. Effects are in item standard errors of one run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.inference.result_tables import build_tables
from analysis.tables.columns import ALL_LAYERS, BITS, DISTANCE_COLUMNS, MODEL_COLUMNS, NOISE_COLUMNS
from analysis.tables.curve_names import name_series
from analysis.tables.frames import Tables, as_table
from analysis.tables.gathering import Gathered, cells_of, performance_rows, suite_rows
from analysis.tables.measurements import Cell, Measurement
from analysis.tables.replicates import label_replicates
from open_instruct.study.variants import IDENTITY_FIELDS

STEPS = (0, 1, 2, 4, 8, 16)
DOUBLINGS = np.arange(-2.0, 3.0)
"""Of the checkpoints after step 0, from the middle one."""
ITEM_ERROR = 0.014
TRAIN_SETS = ("xsum", "news", "paws")
SERIES = (None, *TRAIN_SETS)
"""Train set of each series; None is the base model."""
FORMATS = ("default", "formal", "terse")
FORMAT_STEPS = np.array([0.0, -1.0, 1.0])
LABELS, SUITE_ITEMS = 800, 1000
EFFECTS_OF_CLUSTERS = 0.3
"""Intraclass correlation of the items of one passage."""
Array = npt.NDArray[np.float64]
Measurements = dict[tuple[str, str, str], Measurement]


@dataclass(frozen=True)
class Evaluation:
    name: str
    kind: str
    metric: str
    base: float
    """Level of the base model after step 0."""
    untrained: float
    """Level at step 0."""
    trained_on: str | None = None

    @property
    def role(self) -> str:
        other = "pre-training" if self.kind == "text" else "other"
        return f"in-domain of {self.trained_on}" if self.trained_on else other

    @property
    def better(self) -> int:
        return -1 if self.metric == BITS else 1


XSUM = Evaluation("xsum", "generation", "rouge_l", 0.3, 0.0, "xsum")
XSUM_BITS = Evaluation("xsum", "generation", BITS, 1.0, 3.0, "xsum")
NEWS = Evaluation("news", "generation", "rouge_l", 0.6, 0.0, "news")
PAWS = Evaluation("paws", "labels", "accuracy", 0.85, 0.5, "paws")
TEXT = Evaluation("text", "text", BITS, 1.2, 3.0)
OTHER = Evaluation("summaries", "generation", "rouge_l", 0.4, 0.0)
SUITE = Evaluation("arc_easy", "suite", "acc", 0.5, 0.25)
EVALUATIONS = (XSUM, XSUM_BITS, NEWS, PAWS, TEXT, OTHER, SUITE)


@dataclass(frozen=True)
class Truth:
    """Effects in item standard errors of one run, but for `rise`."""

    gain: float = 0.0
    growth: float = 0.0
    """Of the gain, per doubling; at the middle checkpoint it is `gain`."""
    fall: float = 0.0
    """Of fine-tuned models on their own task, from the middle to the last checkpoint."""
    skill: float = 0.0
    """Gain lost per unit of skill, in scores."""
    log_odds: float = 0.0
    """Gain of every task, in log-odds."""
    forgetting: float = 0.0
    forgetting_growth: float = 0.0
    text: float = 0.0
    """Fall of bits per byte on held-out text, per doubling."""
    other: float = 0.0
    suite: float = 0.0
    weights: float = 0.0
    """Rise of the cost of weight noise per doubling, in standard deviations between runs."""
    distance: bool = False
    """Runs whose weights change more gain more."""
    rise: float = 0.0
    """Improvement of the base models on the train sets' tasks, per doubling, in scores."""


@dataclass(frozen=True)
class Noise:
    runs: float = 0.02 / ITEM_ERROR
    """Standard deviation between runs, in item standard errors."""
    rho: float = 0.0
    """Correlation of neighbouring checkpoints of one run; 1 makes random walks."""
    size: float = 1.0
    """Factor on all noise of items and runs."""
    items: int = 100
    shared: float = 0.5
    """Share of the items' variance that all runs have in common."""
    skewed: bool = False
    """Lognormal items, which react to fine-tuning alike at all checkpoints; the base model has hardly any noise."""
    clusters: int = 0
    """Items of one passage (0: each stands alone)."""
    of_formats: tuple[float, float] | None = None
    """Standard deviations of items of base and fine-tuned models where there are several formats."""
    formats: tuple[float, float] = (0.03, 0.03)
    """Spread of the formats' levels, base and fine-tuned."""
    format_slope: float = 0.0
    """Share of that spread which is lost per doubling."""
    formats_by_run: bool = False
    """Which format is better differs from model to model."""


@dataclass(frozen=True)
class Design:
    replicates: int = 3
    seeds: bool = False
    """The replicates are fine-tuning seeds of one run."""
    noise: Noise = field(default_factory=Noise)
    truth: Truth = field(default_factory=Truth)
    monotone: bool = False
    """Weight changes grow at every checkpoint."""


def simulate(design: Design, rng: np.random.Generator) -> Tables:
    """Tables of one study."""
    courses = {train_set: course(design, rng) for train_set in (*TRAIN_SETS, "")}
    measurements: Measurements = {}
    suites = []
    for evaluation in EVALUATIONS:
        # The same run is better or worse in both metrics of one evaluation.
        runs = evaluation.better * courses[evaluation.trained_on] if evaluation.trained_on else course(design, rng)
        if evaluation.kind == "suite":
            suites += suite_measurements(design, evaluation, runs, rng)
        else:
            add_measurements(measurements, design, evaluation, runs, rng)
    found = list(measurements.values())
    rows = label_replicates(name_series([*performance_rows(found), *suite_rows(suites)]))
    tables = build_tables(Gathered(rows, cells_of(found, rows), []))
    return replace(tables, **weight_tables(design, courses, tables, rng))


def series_of(evaluation: Evaluation) -> list[int]:
    """The series that are evaluated, as indices of SERIES: the base models first."""
    return [0, SERIES.index(evaluation.trained_on)] if evaluation.trained_on else [0, 1, 2]


def course(design: Design, rng: np.random.Generator) -> Array:
    """Deviations of the runs from what is expected, of standard deviation 1.  -> (series, checkpoints, replicates)"""
    rho = design.noise.rho
    fresh = rng.normal(size=(len(SERIES), len(STEPS), design.replicates)) / np.sqrt(2)
    runs = fresh.copy()
    for c in range(1, len(STEPS)):
        runs[:, c] = rho * runs[:, c - 1] + (np.sqrt(1 - rho**2) if rho < 1 else 1.0) * fresh[:, c]
    if design.seeds:
        runs[0] = 0.0
    return runs


def item_error(evaluation: Evaluation, noise: Noise) -> float:
    """Standard error over items of fine-tuned minus base, of one run."""
    if evaluation.kind in ("labels", "suite"):
        num_items = SUITE_ITEMS if evaluation.kind == "suite" else LABELS
        return float(np.sqrt(2 * evaluation.base * (1 - evaluation.base) / num_items))
    return ITEM_ERROR * noise.size


def levels(evaluation: Evaluation, truth: Truth, unit: float) -> Array:
    """Expected score.  -> (series, checkpoints)"""
    trained = np.full((len(SERIES), len(DOUBLINGS)), evaluation.base)
    if evaluation.trained_on:
        trained += evaluation.better * truth.rise * DOUBLINGS
        gain = unit * (truth.gain + truth.growth * DOUBLINGS - truth.fall * np.maximum(DOUBLINGS, 0) / 2)
        if truth.skill:
            gain = gain + truth.skill * (1 - evaluation.base)
        if truth.log_odds:
            gain = special.expit(special.logit(evaluation.base) + truth.log_odds) - evaluation.base
        trained[SERIES.index(evaluation.trained_on)] += evaluation.better * gain
    elif evaluation.kind == "text":
        trained -= unit * truth.text * DOUBLINGS
        trained[1:] += unit * (truth.forgetting + truth.forgetting_growth * DOUBLINGS)
    else:
        trained[1:] += unit * (truth.suite if evaluation.kind == "suite" else truth.other)
    return np.concatenate([np.full((len(SERIES), 1), evaluation.untrained), trained], axis=1)


def add_measurements(
    measurements: Measurements, design: Design, evaluation: Evaluation, runs: Array, rng: np.random.Generator
) -> None:
    """Add one evaluation of all models; a second metric joins the measurement of the first."""
    noise, is_labels = design.noise, evaluation.kind == "labels"
    num_items = LABELS if is_labels else noise.items
    formats = FORMATS if evaluation is XSUM else FORMATS[:1]
    unit, series = item_error(evaluation, noise), series_of(evaluation)
    runs = runs[series]
    # (series, checkpoints, replicates, formats)
    expected = levels(evaluation, design.truth, unit)[series, :, None] + noise.runs * unit * runs
    expected = expected[..., None] + format_steps(design, len(formats), runs.shape, rng)
    each = item_noise(noise, (*runs.shape, len(formats), num_items), rng, is_seeds=design.seeds)
    difficulty = rng.normal(size=num_items)
    clusters = np.arange(num_items) // noise.clusters if noise.clusters else None
    size = np.exp(0.3 * rng.normal(size=num_items)) * 100 if evaluation.metric == BITS else None
    if is_labels:
        # Right where a normal variable passes a threshold, so that each model has exactly its expected accuracy.
        threshold = special.ndtri(np.clip(expected, 0.001, 0.999))[..., None]
        values = ((difficulty + each) / np.sqrt(2) < threshold).astype(float)
    else:
        kish = num_items if size is None else size.sum() ** 2 / np.square(size).sum()
        spread = np.full(len(series), unit * np.sqrt(kish / 2))
        if noise.of_formats and len(formats) > 1:
            spread[:] = noise.of_formats[1]
            spread[0] = noise.of_formats[0]
        if noise.skewed:
            spread *= np.sqrt(2)
            spread[0] *= 0.1
        values = expected[..., None] + 0.1 * difficulty + spread[:, None, None, None, None] * each
    means, errors = means_of(values, size)
    for s, train_set in enumerate(SERIES[i] for i in series):
        for c, step in enumerate(STEPS):
            for r in range(1 if design.seeds and s == 0 else design.replicates):
                for f, name in enumerate(formats):
                    found = values[s, c, r, f]
                    cell = Cell(IDS[:num_items], found if size is None else found * size, size, clusters)
                    model = identity(design, train_set, step, r)
                    place = (model["model_id"], evaluation.name, name)
                    about = {"eval_set": evaluation.name, "format": name, "kind": evaluation.kind}
                    about |= {"protocol": "corrected", "role": evaluation.role}
                    score = summary(float(means[s, c, r, f]), float(errors[s, c, r, f]), num_items)
                    known = measurements.get(place)
                    content = {"primary": evaluation.metric, "metrics": {}} if known is None else dict(known.content)
                    content["metrics"] = {**content["metrics"], evaluation.metric: score}
                    cells = {**(known.cells if known else {}), evaluation.metric: cell}
                    source = " ".join(place)
                    measurements[place] = Measurement(Path(source), source, model | about, content, cells)


IDS = tuple(map(str, range(1000)))


def means_of(values: Array, size: Array | None) -> tuple[Array, Array]:
    """Means and standard errors (...) of `values` (..., items)."""
    n = values.shape[-1]
    share = np.full(n, 1 / n) if size is None else size / size.sum()
    return values @ share, (values * share).std(axis=-1, ddof=1) * np.sqrt(n)


def summary(mean: float, error: float, n: int) -> dict[str, Any]:
    return {"mean": mean, "standard_error": error, "n": n, "ci_low": mean - 2 * error, "ci_high": mean + 2 * error}


def format_steps(design: Design, num_formats: int, shape: tuple[int, ...], rng: np.random.Generator) -> Array | float:
    """Deviation of each format from the model's level.  -> (series, checkpoints, replicates, formats)"""
    if num_formats == 1:
        return 0.0
    noise = design.noise
    spread = np.full(shape[:2], float(noise.formats[1]))
    spread[0] = noise.formats[0]
    spread[:, 1:] *= 1 - noise.format_slope * DOUBLINGS
    steps = np.broadcast_to(FORMAT_STEPS, (*shape, num_formats))
    if noise.formats_by_run:
        steps = rng.normal(size=(*shape, num_formats))
    return spread[:, :, None, None] * steps


def item_noise(noise: Noise, shape: tuple[int, ...], rng: np.random.Generator, *, is_seeds: bool) -> Array:
    """Standard noise (series, checkpoints, replicates, formats, items); part of it is the same in all replicates."""
    of_items = (shape[0], 1 if noise.skewed else shape[1], 1, *shape[3:])
    each = np.sqrt(noise.shared) * draw(noise, of_items, rng) + np.sqrt(1 - noise.shared) * draw(noise, shape, rng)
    if is_seeds:
        each[0] = each[0, :, :1]
    return each


def draw(noise: Noise, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if noise.skewed:
        return (rng.lognormal(size=shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    found = rng.normal(size=shape)
    if noise.clusters:
        of_clusters = rng.normal(size=(*shape[:-1], -(-shape[-1] // noise.clusters)))
        of_clusters = np.repeat(of_clusters, noise.clusters, axis=-1)[..., : shape[-1]]
        found = np.sqrt(1 - EFFECTS_OF_CLUSTERS) * found + np.sqrt(EFFECTS_OF_CLUSTERS) * of_clusters
    return found


@cache
def identity(design: Design, train_set: str | None, step: int, replicate: int) -> dict[str, Any]:
    is_seed = design.seeds and train_set is not None
    found = dict.fromkeys(IDENTITY_FIELDS) | {"family": "simulated", "step": step, "tokens": step * 1000}
    found |= {"train_set": train_set, "seed": replicate if is_seed else None if train_set is None else 42}
    if not design.seeds and design.replicates > 1:
        found["run"] = f"run{replicate}"
    return found | {"model_id": f"{train_set or 'base'}-{step}-{replicate}"}


def suite_measurements(
    design: Design, evaluation: Evaluation, runs: Array, rng: np.random.Generator
) -> list[Measurement]:
    """Accuracies without items."""
    unit = item_error(evaluation, design.noise)
    expected = levels(evaluation, design.truth, unit)[..., None] + design.noise.runs * unit * runs
    shared = np.sqrt(design.noise.shared) * rng.normal(size=runs.shape[:2])[..., None]
    each = shared + np.sqrt(1 - design.noise.shared) * rng.normal(size=runs.shape)
    scores = np.clip(expected + unit / np.sqrt(2) * each, 0, 1)
    found = []
    for s, c, r in np.ndindex(scores.shape):
        if s not in series_of(evaluation) or (design.seeds and s == 0 and r > 0):
            continue
        metrics = {"rc_metrics": {"acc": scores[s, c, r]}}
        result = {"task": evaluation.name, "num_instances": SUITE_ITEMS, "metrics": metrics}
        model = identity(design, SERIES[s], STEPS[c], r)
        source = f"suite {model['model_id']}"
        found.append(Measurement(Path(source), source, model, {"metrics": [result]}, {}))
    return found


def weight_tables(
    design: Design, courses: Mapping[str, Array], tables: Tables, rng: np.random.Generator
) -> dict[str, Any]:
    """Tables `noise` and `distances`: what weight noise costs base models, and how far fine-tuning moves weights."""
    models = tables.performance.drop_duplicates("model_id")[list(MODEL_COLUMNS)].to_dict("records")
    by_id = {row["model_id"]: row for row in models}
    cost, unrelated = course(design, rng), course(design, rng)
    noise, distances = [], []
    for s, c, r in np.ndindex(cost.shape):
        train_set = SERIES[s]
        if (about := by_id.get(f"{train_set or 'base'}-{STEPS[c]}-{r}")) is None:
            continue
        if train_set is None:
            slope = design.truth.weights * DOUBLINGS[c - 1] if c else 0.0
            found = {"setting": TEXT.name, "size": 0.05, "draws": 3, "n": 100, "bits_per_byte": 1.0, "std": 0.001}
            noise.append(about | found | {"difference": 0.1 + 0.01 * (cost[s, c, r] + slope)})
        else:
            deviation = courses[train_set][s, c, r] - courses[train_set][0, c, r]
            relative = deviation if design.truth.distance else unrelated[s, c, r]
            relative = 0.3 + 0.02 * relative + (0.1 * c if design.monotone else 0.0)
            moved = {"layer": ALL_LAYERS, "relative": relative, "distance": relative, "base_norm": 1.0}
            distances.append(about | moved)
    return {"noise": as_table(noise, NOISE_COLUMNS), "distances": as_table(distances, DISTANCE_COLUMNS)}
