#!/usr/bin/env bash
# Copy the tables and figures that this repository releases from a study's results to results/analysis, the only tracked
# results, and say what changed. Commit them then.
#   scripts/release_results.sh STUDY      the study's name: its results are in $base_dir/results/STUDY
#   base_dir      folder of results/      (default: the repository)
# Sidecars, the page and the notebook stay: they name hosts, versions and folders.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${base_dir:=$repository}"
study=${1:-}
from=$base_dir/results/$study
to=$repository/results/analysis
tables="all_perf_table.csv official_eval_table.csv levels.csv paired_differences.csv variation.csv change_summary.csv
  group_summary.csv missing.csv measurements.parquet findings.csv findings.json provenance.csv"
again="make it with: python analysis/report.py --study STUDY_FILE, then python analysis/provenance.py --study STUDY_FILE"
optional="perturbation.csv weight_distances.csv update_ranks.csv interpolation.csv paper_means.csv"

refuse() {
  echo "error: $1" >&2
  exit 2
}

if [[ $# != 1 || ! $study =~ ^[A-Za-z0-9][A-Za-z0-9._+-]*$ ]]; then
  refuse "found ${*:-no name}; expected the name of one study, e.g. scripts/release_results.sh tiny"
fi
[ "$study" != analysis ] || refuse "results/analysis is where released results go; expected the name of a study"
[ -d "$from" ] || refuse "no folder $from; run the study first: python scripts/run_study.py STUDY_FILE"
for name in $tables; do
  [[ -f $from/$name && -f $from/$name.meta.json ]] || refuse "$from/$name is missing or unfinished; $again"
done
[ -f "$from/figures/meta.json" ] || refuse "$from/figures is missing or unfinished; $again"
for name in findings.json figures/meta.json; do
  [ ! "$from/paired_differences.csv" -nt "$from/$name" ] || refuse "$from/$name is older than the tables; $again"
done
[ "$(wc -l <"$from/missing.csv")" -eq 1 ] ||
  refuse "$from/missing.csv lists $(($(wc -l <"$from/missing.csv") - 1)) missing measurements; finish the study first"

cd "$from"
released=()
for name in $tables $optional figures/*.png figures/*.pdf; do
  if [ -f "$name" ]; then released+=("$name"); fi
done
tracked=$(git -C "$repository" ls-files --full-name results/analysis | sed "s|^results/analysis/||")
is_tracked() { grep -qxF -- "$1" <<<"$tracked"; }
for name in "${released[@]}"; do
  if [ -e "$to/$name" ] && ! is_tracked "$name" && ! cmp -s "$name" "$to/$name"; then
    refuse "$to/$name is not tracked by git, so it would be lost; add it, or move it away"
  fi
done
mkdir -p "$to/figures"
unchanged=0
for name in "${released[@]}"; do
  if [ ! -e "$to/$name" ]; then
    echo "new:     $name"
  elif cmp -s "$name" "$to/$name"; then
    unchanged=$((unchanged + 1))
    continue
  else
    echo "changed: $name"
  fi
  cp "$name" "$to/$name"
done
cd "$to"
while IFS= read -r name; do
  if [ -f "$name" ] && [[ " ${released[*]} " != *" $name "* ]]; then
    echo "removed: $name"
    rm "$name"
  fi
done <<<"$tracked"
echo "$to has the ${#released[@]} files of study $study; $unchanged were the same before"
