#!/usr/bin/env bash
# Execute the notebook of the study's figures.  sbatch run_notebook.sh, or bash run_notebook.sh.
#   study         study file: its tables are read              (default: those of all models, in results/all)
#   base_dir      folder of results/                           (default: the repository)
# Further arguments go to run_notebook.py.
#SBATCH --job-name=run_notebook
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
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
python analysis/run_notebook.py ${study:+--study "$study"} "$@"
