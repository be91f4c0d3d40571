"""Names of the result tables, their columns, and labels of metrics, comparisons and task groups."""

from eval.metrics.aggregation import TOP_PREDICTION
from open_instruct.tasks import declarations as tasks

TIDY_TABLE = "measurements.parquet"
FILES = {
    "performance": "all_perf_table.csv",
    "suites": "official_eval_table.csv",
    "levels": "levels.csv",
    "differences": "paired_differences.csv",
    "changes": "change_summary.csv",
    "groups": "group_summary.csv",
    "paper_means": "paper_means.csv",
    "variation": "variation.csv",
    "missing": "missing.csv",
    "noise": "perturbation.csv",
    "distances": "weight_distances.csv",
    "ranks": "update_ranks.csv",
    "interpolation": "interpolation.csv",
}
"""Field of Tables -> file in the folder of a study's results."""
OPTIONAL = ("noise", "distances", "ranks", "interpolation", "paper_means")
"""Tables that not every study measures: without rows there is no file."""

MEASURED = ("model_id", "eval dataset", "Performance", "std")
IDENTITY = ("family", "stage", "run", "step", "tokens", "parameters", "train_set", "format", "shots", "limit")
IDENTITY += ("conditions",)
IDENTITY += ("lr", "epochs", "rows", "batch_size", "seed", "settings")
PERFORMANCE_COLUMNS = (*MEASURED, *IDENTITY, "metric", "n", "ci_low", "ci_high", TOP_PREDICTION, "protocol")
PERFORMANCE_COLUMNS += ("adapter", "eval_set", "kind", "role", "series", "setting", "checkpoint", "group")
PERFORMANCE_COLUMNS += ("unit", "replicate", "degenerate")
PERFORMANCE_COLUMNS += ("source",)
ESTIMATE_COLUMNS = ("std", "df", "ci_low", "ci_high", "p_value", "next_low", "next_high")
ESTIMATE_COLUMNS += ("item_error", "replicate_sd", "replicates", "unit", "n")
"""Of an effect: standard error and its degrees of freedom, interval, prediction interval for one further replicate,
standard error over items of one replicate, SD between replicates, their number, what they are, number of items."""
DIFFERENCE_COLUMNS = ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric", "difference")
DIFFERENCE_COLUMNS += (*ESTIMATE_COLUMNS, "log_odds", "family", "train_set", "eval_set")
DIFFERENCE_COLUMNS += ("format", "setting", "kind", "role", "note", "missing")
LEVEL_COLUMNS = ("series", "checkpoint", "eval dataset", "metric", "Performance", *ESTIMATE_COLUMNS)
LEVEL_COLUMNS += ("family", "stage", "step", "tokens", "parameters", "train_set", "eval_set", "format", "setting")
LEVEL_COLUMNS += ("kind", "role", "group", "degenerate")
"""`degenerate`: why a score says nothing about its model, or nothing."""
MISSING_COLUMNS = ("model_id", "eval dataset", "reason", "file")
MODEL_COLUMNS = ("model_id", "family", "series", "unit", "replicate", "train_set", "checkpoint", "tokens")
NOISE_COLUMNS = (*MODEL_COLUMNS, "setting", "size", "draws", "n", "bits_per_byte", "difference", "std")
NOISE_COLUMNS += ("ci_low", "ci_high", "source")
CURVE_NOISE_COLUMNS = ("series", "setting", "kind", "format", "metric", "checkpoints", "late_checkpoints")
CURVE_NOISE_COLUMNS += ("checkpoint_sd", "signal", "signal_to_noise")
VARIATION_COLUMNS = (
    "series",
    "eval dataset",
    "setting",
    "kind",
    "format",
    "metric",
    "unit",
    "replicates",
    "items",
    "n",
)
VARIATION_COLUMNS += ("item_error", "seed_sd", "run_sd", "checkpoint_sd", "signal", "signal_to_noise")
VARIATION_COLUMNS += ("gain_item_error", "gain_replicate_sd", "gain_shared_items", "gain_next_half_width")
VARIATION_COLUMNS += ("smallest_gain", "family", "train_set", "eval_set", "role")
DISTANCE_COLUMNS = (*MODEL_COLUMNS, "layer", "weights", "distance", "base_norm", "relative", "source")
RANK_COLUMNS = (
    *MODEL_COLUMNS,
    "layer",
    "kind",
    "tensor",
    "full_rank",
    "rank",
    "effective_rank",
    "stable_rank",
    "source",
)
INTERPOLATION_COLUMNS = (*MODEL_COLUMNS, "setting", "alpha", "n", "bits_per_byte", "difference", "barrier", "source")
"""`difference`: from the base model, at alpha 0."""
MEAN_CHANGES = (
    "mean raw change",
    "mean relative change",
    "base slope per checkpoint",
    "fine-tuned slope per checkpoint",
)
SUMMARY_COLUMNS = ("series", "eval dataset", "setting", "metric", "checkpoints", *MEAN_CHANGES)
GROUP_COLUMNS = ("family", "group", "checkpoint", "tasks", *MEAN_CHANGES, "missing")
PAPER_MEAN_COLUMNS = ("family", "figure", "group", "checkpoint", "pairs", "degenerate changes")
PAPER_MEAN_COLUMNS += (
    "mean raw change",
    "ci_low",
    "ci_high",
    "mean relative change",
    "mean relative change as published",
)
PAPER_MEAN_COLUMNS += ("slope per 100k steps", "unit", "replicates", "missing")
"""`degenerate changes`: how many of those averaged are of a score that says nothing about its model."""
WHOLE_NUMBERS = ("step", "tokens", "shots", "limit", "epochs", "rows", "batch_size", "seed", "n", "replicates", "items")
WHOLE_NUMBERS += ("pairs", "degenerate changes", "parameters", "full_rank", "rank")
REAL_NUMBERS = ("Performance", "std", "ci_low", "ci_high", TOP_PREDICTION, "difference", "p_value", "lr", "df")
REAL_NUMBERS += ("log_odds", "next_low", "next_high", "item_error", "replicate_sd")
REAL_NUMBERS += tuple(name for name in VARIATION_COLUMNS if name.endswith(("_sd", "_error", "_width", "_gain")))
REAL_NUMBERS += ("signal", "signal_to_noise", "gain_shared_items")
REAL_NUMBERS += ("size", "bits_per_byte", "distance", "base_norm", "relative")
REAL_NUMBERS += ("effective_rank", "stable_rank", "alpha", "barrier")
REAL_NUMBERS += ("mean raw change", "mean relative change", "mean relative change as published", "slope per 100k steps")


class Comparison:
    """Values of `comparison` in paired_differences.csv. A slope is per doubling of the pre-training tokens."""

    CHANGE = "fine-tuned - base"
    MEAN_CHANGE = "fine-tuned - base, mean over checkpoints"
    CHANGE_SLOPE = "fine-tuned - base, slope"
    PLATEAU_SLOPE = "fine-tuned - base, slope where the base is level"
    SLOPE = "slope"
    LAST_MINUS_EARLIER = "last - earlier checkpoint"
    LAST_MINUS_BEST = "last - best earlier checkpoint"
    FORMATS = "variance between formats"
    FORMATS_MEAN_CHANGE = "variance between formats, fine-tuned - base, mean over checkpoints"
    FORMATS_SLOPE = "variance between formats, slope"
    GAIN_BY_SKILL = "gain per unit of base skill"
    GAIN_BY_SKILL_IN_LOG_ODDS = "gain per unit of base skill, in log-odds"


BITS = "bits_per_byte"
MACRO_F1 = "macro_f1"
"""Stands beside accuracy. It has no values per item, so it takes part in no comparison of models."""
LOWER_IS_BETTER = frozenset({BITS, "toxicity"})
TOP_SCORE = {"win_rate": 100.0}
"""Largest score of a metric, where it is not 1; bits per byte have none."""
METRIC_LABELS = {
    "rouge_l": "ROUGE-L",
    "exact_match": "exact match",
    "accuracy": "accuracy",
    MACRO_F1: "macro F1",
    "acc": "accuracy",
    BITS: "bits per byte",
    "win_rate": "win rate in %",
    "toxicity": "fraction of toxic generations",
    "truthful": "fraction of truthful answers",
    "skill": "gain per unit of base-model skill",
}
PRIMARY_METRICS = tasks.PRIMARY_METRICS | {"suite": "acc"}
"""Kind of an evaluation set -> its primary metric in the tables."""
IMPROVING, NOT_IMPROVING = "improving", "not improving"
ALL_CHECKPOINTS = ALL_LAYERS = "all"
INSTRUCTION_FOLLOWING = "llmbar"
"""Prefix of the evaluation sets on instruction following, which are in no group of tasks."""
