#!/usr/bin/env bash
# From a fresh machine with Python to the figures of the study in miniature. Run again, it skips finished jobs.
# Arguments go to run_study.py, e.g. bash scripts/quickstart.sh --dry_run
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python scripts/run_study.py scripts/studies/tiny.yaml "$@"
