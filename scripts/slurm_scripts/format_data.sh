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

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
: "${data_dir:=$base_dir/data}"
[[ $data_dir == /* ]] || data_dir=$PWD/$data_dir
export base_dir data_dir
read -ra train_names <<< "${train_sets:-}"
read -ra eval_names <<< "${eval_sets:-}"

cd "$repository"
python open_instruct/format_generalization.py \
  ${train_sets:+--train_sets "${train_names[@]}"} \
  ${eval_sets:+--eval_sets "${eval_names[@]}"} \
  "$@"
