"""Score the predictions that have no metrics yet, before the tables are made."""

import re
from pathlib import Path

from eval.eval_pred import Args as ScoreArgs
from eval.eval_pred import metrics_of, score_file
from open_instruct.common import paths
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import sidecar_path
from open_instruct.study.config import Study

SCORE_SUFFIX = re.compile(r"(_resamples\d+|_bootstrapseed\d+|_bca)*\.metrics\.json$")
"""Ending of a metrics file, with the scores' settings where they are not the default."""


def score_predictions(study: Study | None) -> dict[Path, str]:
    """Score the predictions of the study, or all in output/predictions, that have no finished metrics file.

    -> metrics file that could not be made -> why.  Predictions that are not there are not in it.
    """
    args = ScoreArgs(**vars(study.score)) if study else ScoreArgs()
    scored, failed = 0, {}
    for prediction in unscored_of_study(study) if study else unscored():
        try:
            scored += score_file(prediction, args)
        except UserError as error:
            failed[metrics_of(prediction, args)] = f"not scored: {error}"
            print(f"not scored: {error}")
    if scored or failed:
        print(f"scored {scored} predictions that had no metrics; {len(failed)} could not be scored")
    return failed


def unscored_of_study(study: Study) -> list[Path]:
    found = []
    evaluations = study.evaluations()
    for variant in study.variants():
        for one in evaluations:
            prediction = one.prediction_file(variant.model_id)
            metrics = one.metrics_file(prediction)
            if not (metrics.is_file() and sidecar_path(metrics).is_file()) and prediction.is_file():
                found.append(prediction)
    return found


def unscored() -> list[Path]:
    """Of a folder: a prediction that was scored with any settings counts as scored."""
    folder = paths.base_dir() / "output" / "predictions"
    metrics = [path for path in folder.glob("*.metrics.json") if sidecar_path(path).is_file()]
    scored = {SCORE_SUFFIX.sub("", path.name) for path in metrics}
    return sorted(path for path in folder.glob("*.jsonl") if path.stem not in scored)
