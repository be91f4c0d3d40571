#!/usr/bin/env bash
# From a fresh machine with Python 3.11: install, lint, check types, run the tests. Arguments go to pytest.
#   bash scripts/test.sh                                              all tests
#   bash scripts/test.sh -m "not slow and not slurm and not browser"   a developer's loop
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright
exec .venv/bin/python -m pytest "$@"
