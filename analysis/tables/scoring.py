"""Score the predictions that have no metrics yet, or changed since, before the tables are made."""

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
    """Score the predictions of the study, or all in output/predictions, whose metrics file is not up to date.

    -> metrics file that could not be made -> why.  Predictions that are not there are not in it.
    """
    args = ScoreArgs(**vars(study.score)) if study else ScoreArgs()
    scored, failed = 0, {}
    for prediction in of_study(study) if study else of_folder():
        try:
            scored += score_file(prediction, args)
        except UserError as error:
            failed[metrics_of(prediction, args)] = f"not scored: {error}"
            print(f"not scored: {error}")
    if scored or failed:
        print(f"scored {scored} new or changed predictions; {len(failed)} could not be scored")
    return failed


def of_study(study: Study) -> list[Path]:
    evaluations = study.evaluations()
    found = (one.prediction_file(variant.model_id) for variant in study.variants() for one in evaluations)
    return [prediction for prediction in found if prediction.is_file()]


def of_folder() -> list[Path]:
    """All predictions but those that were scored with other settings only."""
    folder = paths.base_dir() / "output" / "predictions"
    metrics = {path.name for path in folder.glob("*.metrics.json") if sidecar_path(path).is_file()}
    scored = {SCORE_SUFFIX.sub("", name) for name in metrics}
    found = sorted(folder.glob("*.jsonl"))
    return [path for path in found if path.stem not in scored or paths.metrics_file(path).name in metrics]
