#!/usr/bin/env bash
# Evaluate one model on multiple-choice tasks by ranked classification.  sbatch evaluate_it_model.sh, or bash evaluate_it_model.sh.
#   model_path    folder of the model, transformers format     (required)
#   tasks         names of tasks, separated by spaces          (default: the eight tasks of run_lm_eval)
#   num_shots     exemplars before each item                   (default: 0)
#   limit         random sample of this many items of each     (default: all)
#   base_dir      folder of output/ and eval_results/          (default: the repository)
# Further arguments go to run_lm_eval, e.g. bash evaluate_it_model.sh --num-shots 5
#SBATCH --job-name=evaluate_it_model
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

# The repository is above this file or, where it is Slurm's copy, above the submitted one or the folder of submission.
above() (cd "$1" && until [[ -e open_instruct/finetune.py ]]; do [[ $PWD != / ]] || exit 1; cd ..; done && pwd)
submitted() { scontrol show job "${SLURM_JOB_ID:-0}" 2> /dev/null | sed -n 's|^ *Command=\(.*/\)[^/]*\.sh.*|\1|p'; }
: "${repository:=$(above "$(dirname "${BASH_SOURCE[0]}")" || above "$(submitted)" \
  || above "${SLURM_SUBMIT_DIR:-.}" || above "${base_dir:-.}")}"
: "${repository:?is not above this script, the folder of submission or base_dir; set repository to its folder}"
: "${base_dir:=$repository}"
[[ $base_dir == /* ]] || base_dir=$PWD/$base_dir
: "${model_path:?set model_path to a model folder, e.g. model_path=output/tiny_tf_ckpts/checkpoint-600 bash evaluate_it_model.sh}"
export base_dir
read -ra task_names <<< "${tasks:-}"

cd "$repository"
python -m olmo_eval.run_lm_eval \
  --model_name_or_path "$model_path" \
  ${tasks:+--tasks "${task_names[@]}"} \
  ${num_shots:+--num_shots "$num_shots"} \
  ${limit:+--limit "$limit"} \
  "$@"
