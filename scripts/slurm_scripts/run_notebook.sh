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

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
export base_dir

cd "$repository"
python analysis/run_notebook.py ${study:+--study "$study"} "$@"
