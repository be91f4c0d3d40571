#!/usr/bin/env bash
# Execute the notebook of the study's figures.  sbatch run_notebook.sh, or bash run_notebook.sh.
#   base_dir      folder of results/                           (default: the repository)
#SBATCH --job-name=run_notebook
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
export base_dir

cd "$repository"
python -m jupyter nbconvert --to notebook --execute "$repository/analysis/gen_paper_figs.ipynb" \
  --output-dir "$base_dir/results/analysis" --output gen_paper_figs.ipynb "$@"
