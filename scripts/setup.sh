#!/usr/bin/env bash
# Create .venv with the locked packages (constraints.txt) and this project; does nothing where it is up to date.
#   scripts/setup.sh [extras]      extras of pyproject.toml        (default: olmo; for the tests: olmo,dev)
#   PYTHON    a program or a version, 3.10 to 3.13                 (default: the first that is installed)
# A torch that .venv has already is kept, in any version that pyproject.toml allows, with what it requires itself.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-olmo}
known=$(sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z]*\) = \[.*/\1/p' pyproject.toml)
for extra in ${extras//,/ }; do # pip only warns of an unknown one
  if ! grep -qxF -- "$extra" <<<"$known"; then
    echo "error: $extra is no extra of pyproject.toml; expected some of ${known//$'\n'/,}" >&2
    exit 2
  fi
done
is_supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
candidates=(python3.11 python3.12 python3.13 python3.10 python3)
if [ -n "${PYTHON:-}" ]; then
  [[ $PYTHON =~ ^3\.[0-9]+$ ]] && PYTHON=python$PYTHON
  candidates=("$PYTHON")
  if ! command -v "$PYTHON" >/dev/null; then
    echo "error: PYTHON is $PYTHON, which is no program; set PYTHON=/path/to/python3.12, or leave it out" >&2
    exit 2
  fi
fi
python=
for candidate in "${candidates[@]}"; do
  if "$candidate" -c "$is_supported" 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  found=$("$candidate" --version 2>&1 || true)
  echo "error: expected Python 3.10 to 3.13, found: ${found%%$'\n'*}; set PYTHON=/path/to/python3.12" >&2
  exit 2
fi
version='import sys; print("Python %d.%d" % sys.version_info[:2])'
if [ -n "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then
  wanted=$("$python" -c "$version") found=$(.venv/bin/python -c "$version" || echo none that runs)
  if [ "$wanted" != "$found" ]; then
    echo "error: PYTHON is $wanted, .venv has $found; remove .venv to make it again, or leave PYTHON out" >&2
    exit 2
  fi
fi

installed=.venv/.installed-$extras
wanted=$(cat constraints.txt pyproject.toml scripts/setup.sh | cksum)
if [ "$(cat "$installed" 2>/dev/null)" = "$wanted" ]; then
  exit
fi
echo "installing .[$extras] into .venv (takes some minutes)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
# pip alone installs torch: it knows from its configuration where this machine has builds for its GPU, or for none.
locked=$(mktemp)
trap 'rm -f "$locked"' EXIT
keep_torch='
import re
from importlib.metadata import requires, version
def name(line): return re.match("[A-Za-z0-9._-]*", line)[0].lower().replace("_", "-")
unlocked = {"torch", *map(name, requires("torch"))}
print("torch==" + version("torch"))
for line in open("constraints.txt"):
    if name(line) not in unlocked and not name(line).startswith(("nvidia-", "cuda-")):
        print(line, end="")'
if .venv/bin/python -c "$keep_torch" >"$locked" 2>/dev/null; then
  echo "kept: $(head -1 "$locked")"
else
  cp constraints.txt "$locked"
  "${pip[@]}" --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null # `uv venv` makes none
  "${pip[@]}" install --constraint "$locked" torch
fi
install=("${pip[@]}" install)
if uv --version >/dev/null 2>&1; then
  install=(uv pip install --quiet --python .venv/bin/python)
fi
"${install[@]}" --constraint "$locked" --editable ".[$extras]"
if [[ $extras == *olmo* && $(.venv/bin/python -c "$version") == "Python 3.13" ]]; then
  # It requires numpy 1, which this Python has not, and runs with numpy 2.
  "${install[@]}" --no-deps ai2-olmo==0.6.0 ai2-olmo-core==0.1.0
fi
echo "$wanted" >"$installed"
