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

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
: "${family:=olmo1b}"
: "${steps:=1000,18000,342000,424000,505000,592000,738000,main}"
export base_dir

cd "$repository"
python open_instruct/download_olmo_ckpts.py --family "$family" --steps "$steps" --download_in_parallel "$@"
