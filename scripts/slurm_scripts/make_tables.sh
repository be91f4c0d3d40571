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

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
export base_dir

cd "$repository"
python analysis/report.py ${study:+--study "$study"} "$@"
