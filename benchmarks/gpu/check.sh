#!/usr/bin/env bash
# Check the project on a machine with a GPU, in at most 8 minutes: speed beside other tools, equal results, memory.
#   bash benchmarks/gpu/check.sh [--parts finetune rank …] [--output_dir DIR]
#   bash benchmarks/gpu/check.sh --tiny         the same programs in miniature on a CPU
# Where the machine has no network, benchmarks/gpu/prepare.sh makes the folder .gpu of what it lacks, to be copied along.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH=$PWD/eval:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ "$python" = python3 ] && [ -d .gpu/wheels ]; then
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" .gpu/wheels/*.whl
  export PYTHONPATH=$PYTHONPATH:$site
fi
"$python" -c 'import torch' 2>/dev/null || {
  echo "error: $python has no torch; make .venv: bash scripts/setup.sh olmo,dev" >&2
  exit 2
}
exec "$python" benchmarks/gpu/check.py "$@"
