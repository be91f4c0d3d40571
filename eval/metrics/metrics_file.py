"""The metrics file of a prediction file: its layout, and how it is read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.bootstrap import Interval
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.sidecars import read_sidecar
from open_instruct.tasks import PROTOCOLS


def reported_value(interval: Interval, protocol: str | None) -> float:
    """The value that tables show: the mean or, under the paper's protocol, the midpoint of the interval."""
    rules, midpoint = PROTOCOLS.get(protocol or ""), (interval.ci_low + interval.ci_high) / 2
    is_midpoint = rules is not None and rules.reported == "midpoint" and not math.isnan(midpoint)
    return midpoint if is_midpoint else interval.mean


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics file."""

    identity: Mapping[str, Any]
    """Of the predictions: model, evaluation set, format, protocol, kind, role, shots."""
    primary: str
    """Name of the primary metric of this kind."""
    metrics: Mapping[str, Interval]
    items: Mapping[str, Sequence[Any]]
    """`id`, and for each metric one number per item."""

    def to_json(self) -> dict[str, Any]:
        intervals = {name: interval.to_json() for name, interval in self.metrics.items()}
        return {"identity": self.identity, "primary": self.primary, "metrics": intervals, "items": self.items}


def load_metrics(path: Path) -> Metrics:
    """Read a metrics file.  Raises UserError where it has no sidecar or another layout."""
    read_sidecar(path)
    content = read_json(path)
    try:
        intervals = {name: Interval.from_json(fields) for name, fields in content["metrics"].items()}
        return Metrics(content["identity"], content["primary"], intervals, content["items"])
    except (KeyError, TypeError) as error:
        again = "make it again with `python eval/eval_pred.py`"
        raise UserError(f"{path}: not a metrics file ({error}); {again}") from error
