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

: "${repository:=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}}"
: "${base_dir:=$repository}"
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
