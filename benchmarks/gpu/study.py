"""The embedded study with its jobs on the GPU, and its findings beside those of the same study on a CPU.

Reads   what prepare.sh copied of a finished run on a CPU: formatted data, converted checkpoints and findings.json.
Writes  --output_file: the figures; and the study's outputs, in a temporary folder.

Fine-tuning, prediction, scoring and the suites are run again; verdicts and effects are then compared.

    python benchmarks/gpu/study.py --output_file study.json
    python benchmarks/gpu/study.py --output_file study.json --tiny      # on a CPU: a part of it, in about three minutes
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figures import Figures

from analysis.tables.columns import BITS
from open_instruct.common.cli import run
from open_instruct.common.errors import UserError
from open_instruct.common.json_files import read_json
from open_instruct.common.paths import REPOSITORY

STUDY = "scripts/studies/tiny.yaml"
FINDINGS = Path("results", "tiny", "findings.json")
STAGES = ("finetune", "predict", "score", "suite")
ONE_RUN = ("pretrain.seeds=[42]",)
TINY = (
    "steps=[0, 60, 600]",
    'train_sets={socialiqa: {rows: 64, epochs: 1, lr: 2e-3, mixed_precision: "no"}}',
    "evaluation={socialiqa: {limit: 10}, rte: {limit: 10}, heldout_text: {limit: 10}}",
    "suite={tasks: [arc_easy, boolq], limit: 10}",
)
KEY = ("question", "claim", "series", "eval_set", "metric", "checkpoint")
"""Fields that name a finding."""
BORDERLINE = 0.1
"""Change of an effect, in half-widths of its interval. Where it is smaller and the verdict differs all the same, the
finding is at the threshold, with a p-value of 0.051, say, and rounding decides."""
Finding = dict[str, Any]


@dataclass(frozen=True)
class Args:
    output_file: Path
    """Figures, as JSON."""
    reference: Path = REPOSITORY / ".gpu" / "study.tar.gz"
    """The study on a CPU."""
    num_parallel: int = 10
    """Jobs at once; they share the GPU."""
    max_seconds: float = 95.0
    """Of the jobs; then they are stopped, and nothing is compared."""
    tiny: bool = False
    """A part of the study, to try this program; its findings differ from the reference's."""


def main(args: Args) -> None:
    if not args.reference.is_file():
        raise UserError(f"{args.reference}: no such file; make it by benchmarks/gpu/prepare.sh")
    figures = Figures(args.output_file)
    figures.add("study: device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        base_dir = Path(name)
        with tarfile.open(args.reference) as archive:
            archive.extractall(base_dir, filter="data")
        before = findings_by_key(base_dir / FINDINGS)
        shutil.rmtree(base_dir / "results")  # of another machine
        started = time.monotonic()
        run_jobs(args, base_dir)
        figures.add("study: fine-tuned models", len(list(base_dir.glob("output/*/training_log.jsonl"))))
        figures.add("study: time of the jobs", time.monotonic() - started, "s")
        started = time.monotonic()
        run_script(base_dir, "analysis/produce_tables.py", "--study", STUDY, *changes(args))
        run_script(base_dir, "analysis/findings.py", "--study", STUDY)
        figures.add("study: time of tables and findings", time.monotonic() - started, "s")
        print(memory_line(base_dir))
        after = findings_by_key(base_dir / FINDINGS)
    report(figures, before, after, is_whole=not args.tiny)


def changes(args: Args) -> list[str]:
    return ["--set", *ONE_RUN, *(TINY if args.tiny else ())]


def run_jobs(args: Args, base_dir: Path) -> None:
    """Raises UserError where a job fails, or they take too long."""
    command = [sys.executable, "scripts/run_study.py", STUDY, "--only", *STAGES]
    command += ["--num_parallel", str(args.num_parallel), *changes(args)]
    # Told to stop, the runner stops its jobs; killed, it would leave them on the GPU.
    runner = subprocess.Popen(command, cwd=REPOSITORY, env=environment(base_dir))
    try:
        exit_code = runner.wait(timeout=args.max_seconds)
    except subprocess.TimeoutExpired as error:
        runner.terminate()
        runner.wait()
        raise UserError(f"the study was not done after {args.max_seconds:.0f} s; give more by --max_seconds") from error
    if exit_code:
        print_failed_logs(base_dir)
        raise UserError(f"run_study.py ended with exit code {exit_code}; see the logs above")


def print_failed_logs(base_dir: Path) -> None:
    for log in sorted(base_dir.glob("output/logs/tiny/*.log")):
        text = log.read_text(errors="replace")
        if "Error" in text or "error:" in text:
            print(f"--- {log.name}\n{text[-2000:]}")


def run_script(base_dir: Path, *command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment(base_dir), check=True)


def environment(base_dir: Path) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY / "eval"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    folders = {"base_dir": str(base_dir), "data_dir": str(base_dir / "data")}
    return os.environ | folders | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def memory_line(base_dir: Path) -> str:
    """A fine-tuning job's line about free memory, the GPU's where it ran there."""
    lines = [line for log in base_dir.glob("output/logs/tiny/finetune*") for line in log.read_text().splitlines()]
    return next((line for line in lines if line.startswith("memory:")), "no fine-tuning job reported its memory")


def findings_by_key(file: Path) -> dict[tuple[Any, ...], Finding]:
    return {tuple(one[name] for name in KEY): one for one in read_json(file)["findings"]}


def report(
    figures: Figures,
    before: Mapping[tuple[Any, ...], Finding],
    after: Mapping[tuple[Any, ...], Finding],
    *,
    is_whole: bool,
) -> None:
    """Compare findings; only those of the whole study have goals."""
    pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
    differing = [pair for pair in pairs if pair[0]["verdict"] != pair[1]["verdict"]]
    moved = [pair for pair in differing if largest(relative_differences([pair])) > BORDERLINE]
    none = 0 if is_whole else None
    figures.add("study: findings on the CPU", len(before))
    figures.add("study: findings on one side only", len(before.keys() ^ after.keys()), at_most=none)
    figures.add("study: findings whose verdict differs from the CPU's", len(differing), at_most=none)
    figures.add(f"study: of these, by more than {BORDERLINE} half-widths of the interval", len(moved), at_most=none)
    in_bits = [pair for pair in pairs if pair[0]["metric"] == BITS]
    figures.add("study: largest difference of an effect, in bits per byte", largest(differences(in_bits)))
    others = [pair for pair in pairs if pair[0]["metric"] != BITS]
    figures.add("study: largest difference of an effect, in scores", largest(differences(others)))
    figures.add("study: largest difference of an effect, in half-widths", largest(relative_differences(pairs)))
    for cpu, gpu in differing:
        sides = (f"{one['verdict']} (p {one['p_adjusted']:.3g})" for one in (cpu, gpu) if one["p_adjusted"] is not None)
        figures.add(f"study: {cpu['claim']}", ", on the GPU ".join(sides))


def differences(pairs: Sequence[tuple[Finding, Finding]]) -> Iterator[float]:
    for one, other in pairs:
        if one["effect"] is not None and other["effect"] is not None:
            yield abs(one["effect"] - other["effect"])


def relative_differences(pairs: Sequence[tuple[Finding, Finding]]) -> Iterator[float]:
    """In half-widths of the CPU's interval, where it has one."""
    for one, other in pairs:
        if None not in (one["effect"], other["effect"], one["ci_low"]) and one["ci_high"] > one["ci_low"]:
            yield 2 * abs(one["effect"] - other["effect"]) / (one["ci_high"] - one["ci_low"])


def largest(values: Iterator[float]) -> float:
    return max(values, default=0.0)


if __name__ == "__main__":
    run(main, Args)
