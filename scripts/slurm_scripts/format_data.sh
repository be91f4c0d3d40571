#!/usr/bin/env bash
# Format datasets into train and evaluation files.  sbatch format_data.sh, or bash format_data.sh.
#   train_sets    names of train sets, separated by spaces           (default: all)
#   eval_sets     names of evaluation sets, separated by spaces      (default: all)
#   base_dir      folder of output/                                  (default: the repository)
#   data_dir      folder of the formatted data                       (default: $base_dir/data)
# Further arguments go to format_generalization.py, e.g. bash format_data.sh --seed 1
#SBATCH --job-name=format_data
#SBATCH --cpus-per-task=2
#SBATCH --mem=16G
#SBATCH --time=02:00:00
set -euo pipefail

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
: "${data_dir:=$base_dir/data}"
export base_dir data_dir
read -ra train_names <<< "${train_sets:-}"
read -ra eval_names <<< "${eval_sets:-}"

cd "$repository"
python open_instruct/format_generalization.py \
  ${train_sets:+--train_sets "${train_names[@]}"} \
  ${eval_sets:+--eval_sets "${eval_names[@]}"} \
  "$@"
