#!/usr/bin/env bash
# Run lint, types and tests on a fresh machine with Python. Arguments go to pytest, e.g. the developer's loop:
#   bash scripts/test.sh -m "not slow and not slurm and not browser"
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh olmo,dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
report=$(mktemp)
trap 'rm -f "$report"' EXIT
.venv/bin/basedpyright >"$report" &
types=$!
status=0
# A process for each core; tests of one file run in one process and share its fixtures.
.venv/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile "$@" || status=$?
wait "$types" || status=$?
cat "$report"
exit "$status"
