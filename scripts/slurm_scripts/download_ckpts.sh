#!/usr/bin/env bash
# Download pre-training checkpoints; run again, it resumes.  sbatch download_ckpts.sh, or bash download_ckpts.sh.
#   family        family of the checkpoints                    (default: olmo1b)
#   steps         pre-training steps, separated by commas      (default: those of the paper)
#   base_dir      folder of output/                            (default: the repository)
# Further arguments go to download_olmo_ckpts.py, e.g. bash download_ckpts.sh --list
#SBATCH --job-name=download_ckpts
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=12:00:00
set -euo pipefail

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
: "${family:=olmo1b}"
: "${steps:=1000,18000,342000,424000,505000,592000,738000,main}"
export base_dir

cd "$repository"
python open_instruct/download_olmo_ckpts.py --family "$family" --steps "$steps" --download_in_parallel "$@"
