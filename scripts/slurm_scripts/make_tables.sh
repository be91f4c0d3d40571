#!/usr/bin/env bash
# Make tables, findings, figures and the report page.  sbatch make_tables.sh, or bash make_tables.sh.
#   study         study file: exactly its grid, into results/{its name}  (default: all measurements, into results/all)
#   base_dir      folder of output/ and results/               (default: the repository)
# Further arguments go to report.py.
#SBATCH --job-name=make_tables
#SBATCH --cpus-per-task=2
#SBATCH --mem=16G
#SBATCH --time=02:00:00
set -euo pipefail

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
export base_dir

cd "$repository"
python analysis/report.py ${study:+--study "$study"} "$@"
