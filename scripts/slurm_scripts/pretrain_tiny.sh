#!/usr/bin/env bash
# Pre-train the small OLMo and save checkpoints of it.  sbatch pretrain_tiny.sh, or bash pretrain_tiny.sh.
#   base_dir      folder of output/                            (default: the repository)
# Arguments go to pretrain_tiny.py, e.g. bash pretrain_tiny.sh --steps 0 200 600
#SBATCH --job-name=pretrain_tiny
#SBATCH --cpus-per-task=8
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
python open_instruct/pretrain_tiny.py "$@"
