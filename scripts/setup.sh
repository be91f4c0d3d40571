#!/usr/bin/env bash
# Create .venv with the pinned requirements and this project; does nothing where it is up to date.
#   scripts/setup.sh [requirements file]      (default: requirements.txt)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements=${1:-requirements.txt}
if [ -n "${PYTHON:-}" ] && ! command -v "$PYTHON" >/dev/null; then
  echo "error: PYTHON is $PYTHON, which is no program; set PYTHON=/path/to/python3.11, or leave it out" >&2
  exit 2
fi
: "${PYTHON:=$(command -v python3.11 || echo python3)}"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "error: $("$PYTHON" --version) found, Python 3.11 expected; set PYTHON=/path/to/python3.11" >&2
  exit 2
}

installed=.venv/.installed-$requirements
wanted=$(cat requirements*.txt pyproject.toml | cksum)
if [ "$(cat "$installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing $requirements into .venv (takes some minutes)"
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  .venv/bin/python -m pip install --quiet -r "$requirements"
  .venv/bin/python -m pip install --quiet --no-deps -e .
  echo "$wanted" >"$installed"
fi
