"""Names of the result tables, their columns, and labels of metrics, comparisons and task groups."""

from eval.metrics.aggregation import TOP_PREDICTION
from open_instruct.tasks import declarations as tasks

TIDY_TABLE = "measurements.parquet"
FILES = {
    "performance": "all_perf_table.csv",
    "suites": "official_eval_table.csv",
    "differences": "paired_differences.csv",
    "changes": "change_summary.csv",
    "groups": "group_summary.csv",
    "missing": "missing.csv",
    "noise": "perturbation.csv",
    "distances": "weight_distances.csv",
}
"""Field of Tables -> file in the folder of a study's results."""
OPTIONAL = ("noise", "distances")
"""Tables that few studies measure: without rows there is no file."""

MEASURED = ("model_id", "eval dataset", "Performance", "std")
IDENTITY = ("family", "run", "step", "tokens", "train_set", "format", "shots", "limit", "conditions")
IDENTITY += ("lr", "epochs", "rows", "batch_size", "seed", "settings")
PERFORMANCE_COLUMNS = (*MEASURED, *IDENTITY, "metric", "n", "ci_low", "ci_high", TOP_PREDICTION, "protocol")
PERFORMANCE_COLUMNS += ("adapter", "eval_set", "kind", "role", "series", "setting", "checkpoint", "group")
PERFORMANCE_COLUMNS += ("source",)
DIFFERENCE_COLUMNS = ("comparison", "series", "reference", "checkpoint", "eval dataset", "metric")
DIFFERENCE_COLUMNS += ("difference", "std", "ci_low", "ci_high", "p_value", "n", "family", "train_set", "eval_set")
DIFFERENCE_COLUMNS += ("format", "setting", "kind", "role", "missing")
MISSING_COLUMNS = ("model_id", "eval dataset", "reason", "file")
MODEL_COLUMNS = ("model_id", "family", "series", "train_set", "checkpoint", "tokens")
NOISE_COLUMNS = (*MODEL_COLUMNS, "setting", "size", "draws", "n", "bits_per_byte", "difference", "std")
NOISE_COLUMNS += ("ci_low", "ci_high", "source")
CURVE_NOISE_COLUMNS = ("series", "setting", "kind", "format", "metric", "checkpoints", "late_checkpoints")
CURVE_NOISE_COLUMNS += ("checkpoint_sd", "signal", "signal_to_noise")
DISTANCE_COLUMNS = (*MODEL_COLUMNS, "layer", "weights", "distance", "base_norm", "relative", "source")
MEAN_CHANGES = (
    "mean raw change",
    "mean relative change",
    "base slope per checkpoint",
    "fine-tuned slope per checkpoint",
)
SUMMARY_COLUMNS = ("series", "eval dataset", "metric", "checkpoints", *MEAN_CHANGES)
GROUP_COLUMNS = ("family", "group", "checkpoint", "tasks", *MEAN_CHANGES, "missing")
WHOLE_NUMBERS = ("step", "tokens", "shots", "limit", "epochs", "rows", "batch_size", "seed", "n")
REAL_NUMBERS = ("Performance", "std", "ci_low", "ci_high", TOP_PREDICTION, "difference", "p_value", "lr")
REAL_NUMBERS += ("size", "bits_per_byte", "distance", "base_norm", "relative")


class Comparison:
    """Values of `comparison` in paired_differences.csv."""

    CHANGE = "fine-tuned - base"
    MEAN_CHANGE = "fine-tuned - base, mean over checkpoints"
    CHANGE_GROWTH = "fine-tuned - base, last - first checkpoint"
    STEP_MINUS_PREVIOUS = "checkpoint - previous checkpoint"
    LAST_MINUS_FIRST = "last - first checkpoint"
    SPREAD = "spread over formats"
    SPREAD_GROWTH = "spread over formats, last - first checkpoint"
    MEAN_SPREAD_CHANGE = "spread over formats, fine-tuned - base, mean over checkpoints"


BITS = "bits_per_byte"
MACRO_F1 = "macro_f1"
"""Stands beside accuracy. It has no values per item, so it takes part in no comparison of models."""
LOWER_IS_BETTER = frozenset({BITS, "toxicity"})
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
    "gain_by_distance": "gain per unit of relative weight change",
}
PRIMARY_METRICS = tasks.PRIMARY_METRICS | {"suite": "acc"}
"""Kind of an evaluation set -> its primary metric in the tables."""
IMPROVING, NOT_IMPROVING = "improving", "not improving"
ALL_CHECKPOINTS = ALL_LAYERS = "all"
INSTRUCTION_FOLLOWING = "llmbar"
"""Prefix of the evaluation sets on instruction following, which are in no group of tasks."""
