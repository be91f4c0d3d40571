"""A whole study through Slurm: submitted twice, hurt, mended; its tables are those of a run on this machine."""

import os
import subprocess
import sys

from slurm_study import NUM_JOBS, SlurmStudy
from test_run_study import SCRIPT


def test_a_study_on_slurm_is_mended_and_equals_a_local_run(slurm, tmp_path):
    study = SlurmStudy(slurm, tmp_path)
    assert f"submitted {NUM_JOBS} jobs" in study.run()
    again = study.run()
    assert "submitted 0 jobs" in again
    assert f"in the queue before: {NUM_JOBS}" in again

    # The fine-tuning is taken out of the queue: what needs it goes too, all else runs to its end.
    name = slurm.run("squeue", "--noheader", "--format=%j").stdout.split()
    slurm.run("scancel", f"--name={next(n for n in name if '-finetune-' in n)}")
    slurm.wait_until_empty()
    counts = study.counts()
    assert counts["running"] == counts["queued"] == 0
    assert 0 < counts["done"] < NUM_JOBS

    (damaged,) = (study.base_dir / "output" / "predictions").glob("rte_tiny_checkpoint-4.jsonl")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert f"damaged: {damaged.relative_to(study.base_dir)}: " in study.run("--verify", exit_code=1)

    finished = {p.name: p.stat().st_mtime_ns for p in (study.base_dir / "output" / "jobs").glob("convert*.json")}
    study.run("--retry_failed")
    slurm.wait_until_empty()
    assert study.counts() == {"done": NUM_JOBS, "running": 0, "queued": 0, "failed": 0, "missing": 0}
    assert "0 damaged" in study.run("--verify")
    assert {
        p.name: p.stat().st_mtime_ns for p in (study.base_dir / "output" / "jobs").glob("convert*.json")
    } == finished

    (tmp_path / "local").mkdir()
    local = subprocess.run(
        [sys.executable, str(SCRIPT), str(study.file)],
        env=os.environ | {"base_dir": str(tmp_path / "local")},
        capture_output=True,
        text=True,
    )
    assert local.returncode == 0, local.stdout + local.stderr
    for table in ("all_perf_table.csv", "official_eval_table.csv"):
        made = [base / "results" / "analysis" / table for base in (study.base_dir, tmp_path / "local")]
        assert made[0].read_bytes() == made[1].read_bytes()
