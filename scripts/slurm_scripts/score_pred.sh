#!/usr/bin/env bash
# Score prediction files.  sbatch score_pred.sh, or bash score_pred.sh.
#   base_dir      folder of output/                            (default: the repository)
# Arguments go to eval_pred.py, e.g. bash score_pred.sh --input_files output/predictions/rte_main.jsonl
#SBATCH --job-name=score_pred
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=01:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
export base_dir

cd "$repository"
python eval/eval_pred.py "$@"
