"""Summarise what made the results of a study: commits, versions, devices, time and memory of every stage.

Reads    the sidecars of everything that the study's jobs write, except the analysis itself.
Writes   provenance.csv in results/{study}: a row for each stage.

    python analysis/provenance.py --study scripts/studies/tiny.yaml
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.columns import TIDY_TABLE
from analysis.tables.frames import write_table
from analysis.tables.results_folder import existing_results
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.sidecars import find_sidecar
from open_instruct.study.loading import load_study
from open_instruct.study.plan import all_jobs

OF_THE_ANALYSIS = ("report", "notebook")
VERSIONS = ("torch", "transformers", "ai2-olmo", "numpy")


@dataclass(frozen=True)
class Args:
    study: Path
    """Study file whose jobs are finished."""
    set: tuple[str, ...] = ()
    """Values in place of the study file's, as of run_study.py."""


def main(args: Args) -> None:
    study = load_study(args.study, args.set)
    folder = existing_results(args.study, None, args.set)
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    missing = []
    for job in all_jobs(study):
        if job.stage in OF_THE_ANALYSIS:
            continue
        for output in job.outputs:
            sidecar = find_sidecar(output)
            if sidecar is None:
                missing.append(str(output))
            else:
                by_stage.setdefault(job.stage, []).append(sidecar)
    if missing:
        raise UserError(f"{len(missing)} outputs have no sidecar, such as {missing[0]}; finish the study first")
    frame = pd.DataFrame([{"stage": stage, **summary(found)} for stage, found in by_stage.items()])
    write_table(folder / "provenance.csv", frame, {TIDY_TABLE: folder / TIDY_TABLE}, {"study": study.name})
    print(frame.to_string(index=False))


def summary(sidecars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row; values that differ among the outputs are all listed."""
    finished = sorted(found["finished"] for found in sidecars)
    return {
        "outputs": len(sidecars),
        "commits": listed(found.get("git_commit") for found in sidecars),
        **{name: listed(found["versions"].get(name) for found in sidecars) for name in VERSIONS},
        "devices": listed(found.get("device") for found in sidecars),
        "seconds": round(sum(found.get("seconds") or 0.0 for found in sidecars)),
        "peak_memory_mb": round(max(found.get("peak_memory_bytes") or 0 for found in sidecars) / 1e6),
        "first": finished[0],
        "last": finished[-1],
    }


def listed(values: Any) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None}))


if __name__ == "__main__":
    run(main, Args)
