"""Collect every measurement into tables.

Reads    output/predictions/*.metrics.json and eval_results/eval_pipeline/*.json, with their sidecars: with --study
         those of its grid, else all; or with --released the authors' released tables. Predictions (*.jsonl) that have
         no metrics yet, or changed since, are scored first, as by eval/eval_pred.py; what could not be scored is in
         missing.csv.
Writes   into results/{study}, results/all or results/released:
         measurements.parquet     a row for each model, evaluation and metric, and its source
         all_perf_table.csv       the same rows without the suites
         official_eval_table.csv  the ranked-classification suites
         levels.csv               both, over pre-training runs or fine-tuning seeds
         paired_differences.csv   models compared on the same items
         change_summary.csv       mean change and slope over checkpoints
         variation.csv            how much items, seeds, runs and checkpoints vary, and the smallest gain that shows
         group_summary.csv        the same over tasks that improve with pre-training, and others
         paper_means.csv          mean change over the paper's pairs of train and evaluation set, if they were measured
         missing.csv              what the study expects and is not there
         perturbation.csv         what eval/perturb_weights.py measured, if it was run
         weight_distances.csv, update_ranks.csv   what eval/weight_distance.py measured, if it was run
         interpolation.csv        what eval/interpolate_weights.py measured, if it was run
         tables/*.tex             the same for a paper, as LaTeX with booktabs
The same measurements give the same bytes. Files that have not changed are not read again.

    python analysis/produce_tables.py --study scripts/studies/tiny.yaml
    python analysis/produce_tables.py --released ../authors/results/analysis
"""

from dataclasses import dataclass
from pathlib import Path

from analysis.inference.result_tables import produce_tables
from analysis.tables.results_folder import new_results
from open_instruct.common.cli import run


@dataclass(frozen=True)
class Args:
    study: Path | None = None
    """Take the models and evaluations of this study, and list what is missing (default: all finished ones)."""
    set: tuple[str, ...] = ()
    """Values in place of the study file's, as of run_study.py."""
    skip_scoring: bool = False
    """Do not score predictions that have no metrics yet, which are then missing, or that changed since."""
    released: Path | None = None
    """Folder of the authors' released tables, to be read in place of your own measurements."""


def main(args: Args) -> None:
    study, folder = new_results(args.study, args.released, args.set)
    produce_tables(study, args.released, folder, skip_scoring=args.skip_scoring)


if __name__ == "__main__":
    run(main, Args)
