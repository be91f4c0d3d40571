#!/usr/bin/env bash
# Pre-train the small OLMo and save checkpoints of it.  sbatch pretrain_tiny.sh, or bash pretrain_tiny.sh.
#   base_dir      folder of output/                            (default: the repository)
# Arguments go to pretrain_tiny.py, e.g. bash pretrain_tiny.sh --steps 0 200 600
#SBATCH --job-name=pretrain_tiny
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=01:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
export base_dir

cd "$repository"
python open_instruct/pretrain_tiny.py "$@"
