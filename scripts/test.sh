#!/usr/bin/env bash
# From a fresh machine with Python 3.11 to the verdict of the tests. Arguments go to pytest.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh requirements-dev.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright
exec .venv/bin/python -m pytest "$@"
